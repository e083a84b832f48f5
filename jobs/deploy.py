"""`ray job submit --working-dir . -- python jobs/deploy.py NAME`: serves, and leaves it running."""

import sys

from rtl.cli.main import main

sys.exit(main(["deploy", *sys.argv[1:]]))
