"""Make docs/photographs.jpg, the picture of the README: what ``captum-extremal demo`` finds in its photographs.

python tools/photographs.py    # needs the extra demo
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from captum_extremal import cli

PICTURE = Path(__file__).parents[1] / "docs" / "photographs.jpg"


def main() -> int:
    """Run the demo, and keep its overview."""
    with tempfile.TemporaryDirectory() as folder:
        status = cli.main(["demo", "--no-html", "--out", folder])
        if status == 0:
            with Image.open(Path(folder) / "overview.png") as overview:
                overview.convert("RGB").save(PICTURE, quality=88)
    return status


if __name__ == "__main__":
    sys.exit(main())
