"""`python -m rtl.cli`, where the `rtl` script is not on the path."""

import sys

from rtl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
