"""`ray job submit --working-dir . -- python jobs/features.py`: the arguments of `rtl features`."""

import sys

from rtl.cli.main import main

sys.exit(main(["features", *sys.argv[1:]]))
