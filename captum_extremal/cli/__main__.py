"""``python -m captum_extremal.cli``."""

from captum_extremal.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
