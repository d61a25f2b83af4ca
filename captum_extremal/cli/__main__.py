"""``python -m captum_extremal.cli``."""

import sys

from captum_extremal.cli import main

if __name__ == "__main__":
    sys.exit(main())
