"""`ray job submit --working-dir . -- python jobs/deploy.py NAME`: serves, and leaves it running."""

import sys

from rtl.cli import main

sys.exit(main(["serve", "--detach", *sys.argv[1:]]))
