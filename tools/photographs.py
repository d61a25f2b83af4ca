"""Make the pictures of the README: what ``captum-extremal demo`` finds in its photographs, and in a scene of digits.

python tools/photographs.py    # needs the extra demo
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from captum_extremal import cli
from captum_extremal.cli import cases

ROOT = Path(__file__).parents[1]
PICTURES = {"docs/photographs.jpg": [], "tutorials/demo.png": ["--seed", "0"]}  # with the options of the demo


def main() -> int:
    """Run the demo, and keep its overviews."""
    if not cases.has_photographs():
        sys.exit("this needs the extra demo: pip install '.[demo]'")
    return max(make(ROOT / path, options) for path, options in PICTURES.items())


def make(path: Path, options: list[str]) -> int:
    """One picture; returns the status of the demo."""
    with tempfile.TemporaryDirectory() as folder:
        status = cli.main(["demo", "--no-html", "--out", folder, *options])
        if status == 0:
            with Image.open(Path(folder) / "overview.png") as overview:
                overview.convert("RGB").save(path, quality=88)
    return status


if __name__ == "__main__":
    sys.exit(main())
