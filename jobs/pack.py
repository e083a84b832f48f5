"""`ray job submit --working-dir . -- python jobs/pack.py ...`: the arguments of `rtl pack`."""

import sys

from rtl.cli.main import main

sys.exit(main(["pack", *sys.argv[1:]]))
