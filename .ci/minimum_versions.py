"""Print the lowest version that pyproject.toml names of each package, as a constraints file for pip."""

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib  # Python 3.10 has no reader of TOML

LOWEST = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)")


def lowest_versions(pyproject: Path) -> list[str]:
    """``name==version`` of the package's dependencies and those of its tests."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    lines = []
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        found = LOWEST.match(requirement)
        if found is None:
            raise ValueError(f"{requirement!r} of pyproject.toml names no lowest version")
        lines.append("{}=={}".format(*found.groups()))
    return lines


if __name__ == "__main__":
    print("\n".join(lowest_versions(Path(__file__).parents[1] / "pyproject.toml")))
