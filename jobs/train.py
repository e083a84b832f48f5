"""`ray job submit --working-dir . -- python jobs/train.py ...`: the arguments of `rtl train`."""

import sys

from rtl.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
