"""`ray job submit --working-dir . -- python jobs/train.py ...`: the arguments of `rtl train`."""

import sys

from rtl.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
