"""`ray job submit --working-dir . -- python jobs/predict.py ...`: arguments of `rtl predict`."""

import sys

from rtl.cli.main import main

sys.exit(main(["predict", *sys.argv[1:]]))
