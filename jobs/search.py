"""`ray job submit --working-dir . -- python jobs/search.py ...`: the arguments of `rtl search`."""

import sys

from rtl.cli.main import main

sys.exit(main(["search", *sys.argv[1:]]))
