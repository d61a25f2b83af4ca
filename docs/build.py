"""Build the site: put its sources together, then run Sphinx on them, with warnings as errors.

    python docs/build.py [FOLDER]    # build/site by default; its html/index.html is the first page

The sources are the pages of this folder, the change log, the guide for contributors, the measurements, the tutorials as
``tutorials/execute.py`` has executed them (those that it has not are shown without outputs), and pages that are made
here: the reference of all public names, the tables and plots of the result files, and the explorer. Sphinx runs the
page of the figures.
"""

import ast
import importlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = "https://github.com/captum-extremal/captum_extremal/blob/main/"
FROM_ELSEWHERE = {
    "README.md": "index.md",  # links to it lead to the first page
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks/measurements.md",
    "benchmarks/table1.md": "benchmarks/table1.md",
    "benchmarks/growth.png": "benchmarks/growth.png",
    "tutorials/demo.png": "tutorials/demo.png",
}
"""Files outside of this folder, and their places in the site."""
FIRST = ("ExtremalPerturbation", "LayerExtremalPerturbation", "ExtremalMasks", "FeatureInversion")
"""The public names that most readers look for."""
SUBMODULES = ("objectives", "metrics", "datasets", "evaluation", "visualization")
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")
_CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def main(folder: Path) -> int:
    """Put the sources together and build the site; Sphinx's exit status."""
    from sphinx.cmd.build import build_main

    sources = folder / "sources"
    shutil.rmtree(folder, ignore_errors=True)
    gather(sources)
    with_benchmarks(sources / "benchmarks")
    with_scene(sources)
    return build_main(["-W", "--keep-going", "-q", "-b", "html", str(sources), str(folder / "html")])


def gather(sources: Path) -> None:
    """Copy all pages, with their links as they are in the site, and write the reference."""
    places = site_places()
    for path, place in places.items():
        target = sources / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if (path, place) == ("README.md", "index.md"):
            continue
        if target.suffix in (".md", ".ipynb"):
            target.write_text(relinked((ROOT / path).read_text(encoding="utf-8"), path, places), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / path, target)
    for name, text in reference_pages().items():
        (sources / "reference").mkdir(exist_ok=True)
        (sources / "reference" / f"{name}.md").write_text(text, encoding="utf-8")


def site_places() -> dict[str, str]:
    """By path from the clone's root, the place in the site of each file that is part of it."""
    places = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "docs").rglob("*")) if path.is_file()}
    found = {path: path.removeprefix("docs/") for path in places if "__pycache__" not in path}
    executed = {path.name: path for path in sorted((ROOT / "build" / "tutorials").glob("*.ipynb"))}
    for notebook in sorted((ROOT / "tutorials").glob("*.ipynb")):
        path = executed.get(notebook.name, notebook)
        found[path.relative_to(ROOT).as_posix()] = f"tutorials/{notebook.name}"
    return found | FROM_ELSEWHERE


def relinked(text: str, path: str, places: dict[str, str]) -> str:
    """The text of a page with each link to a file as a link within the site, or else to the source on the web."""
    home = "tutorials" if path.startswith("build/tutorials/") else os.path.dirname(path)
    tutorials = {f"tutorials/{os.path.basename(one)}": place for one, place in places.items() if "tutorials/" in one}
    here = os.path.dirname(places[path])

    def link(match: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(home, match[2]))
        place = (places | tutorials).get(target)
        return match[1] + (os.path.relpath(place, here or ".") if place else SOURCE + target)

    parts = _CODE.split(text)  # every second one is code, where f[0](x) is no link
    return "".join(part if k % 2 else _LINK.sub(link, part) for k, part in enumerate(parts))


def public_names() -> dict[str, list[str]]:
    """The public names by the module under which a user finds them: the package itself, or one of its submodules."""
    stub = ast.parse((ROOT / "captum_extremal" / "__init__.pyi").read_text(encoding="utf-8"))
    package = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    found = {"captum_extremal": sorted(package, key=lambda name: (*FIRST, name).index(name))}
    for name in SUBMODULES:
        module = f"captum_extremal.{name}"
        found[module] = list(importlib.import_module(module).__all__)
    return found


def reference_pages() -> dict[str, str]:
    """A page for each module: its own docstring, then every public name of it with its docstring."""
    pages = {}
    for module, names in public_names().items():
        whole = importlib.import_module(module)
        parts = [f"# {module}", _directive("automodule", module)]
        if module == "captum_extremal":  # the rest is for those who change it
            parts[1:] = [str(whole.__doc__).partition("\n\n")[0], _directive("module", module)]
        for name in names:
            if module != "captum_extremal" and name in public_names()["captum_extremal"]:
                parts += [f"`{name}` is described with the [package](captum_extremal.md)."]
                continue
            thing, parts = getattr(whole, name), [*parts, f"## {name}"]
            if isinstance(thing, dict):  # has no docstring of its own
                listed = ", ".join(f"``{key}``" for key in thing)
                parts += [f"```{{eval-rst}}\n.. py:data:: {module}.{name}\n\n   By name: {listed}.\n```"]
            elif isinstance(thing, type):
                bases = () if thing.__bases__ == (object,) else ("show-inheritance",)
                parts += [_directive("autoclass", f"{module}.{name}", "members", *bases)]
            else:
                parts += [_directive("autofunction", f"{module}.{name}")]
        pages[module] = "\n\n".join(parts) + "\n"
    listed = "\n".join(f"{module.rpartition('.')[2]} <{module}>" for module in pages)
    intro = "Every public name, with the formula of the paper that it stands for. The examples are run by the tests."
    return pages | {"index": f"# Reference\n\n{intro}\n\n```{{toctree}}\n{listed}\n```\n"}


def _directive(name: str, argument: str, *options: str) -> str:
    body = "".join(f"\n   :{option}:" for option in options)
    return f"```{{eval-rst}}\n.. {name}:: {argument}{body}\n```"


def with_benchmarks(folder: Path) -> None:
    """Write the page of the evaluations: a table and a plot for each metric of each folder of result files."""
    from captum_extremal.evaluation import read_rows, tabulate
    from captum_extremal.visualization import show_bars

    intro = (
        "Made from the rows in `benchmarks/results`, which `captum-extremal evaluate` wrote. Means over the classes, "
        "with 95 % bootstrap intervals over the images; insertion and deletion over the pairs. More is better, except "
        "for deletion. What the numbers mean and what they do not is told in the [measurements](measurements.md)."
    )
    parts = ["# Benchmarks", intro]
    for data in sorted(path for path in (ROOT / "benchmarks" / "results").iterdir() if path.is_dir()):
        lines = tabulate(read_rows([data]).values())
        columns = list(dict.fromkeys(column for line in lines for column in line.scores))
        rows = [f"| method | {' | '.join(columns)} | images |", "|---" * (len(columns) + 2) + "|"]
        for line in lines:
            scores = [line.scores.get(column, {}).get("all") for column in columns]
            cells = [f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]" if one else "" for one in scores]
            unbroken = " | ".join(cell.replace(" ", "\N{NO-BREAK SPACE}") for cell in cells)
            rows.append(f"| {line.label} | {unbroken} | {line.images} |")
        parts += [f"## {data.name}", "\n".join(rows)]
        for column in columns:
            bars = {line.label: line.scores[column]["all"] for line in lines if "all" in line.scores.get(column, {})}
            values = {label: (one.mean, one.low, one.high) for label, one in bars.items()}
            name = f"{data.name}-{column}.png"
            show_bars(values, ylabel=column).savefig(folder / name, dpi=110)
            parts.append(f"![{column} on {data.name}, a bar for each method]({name})")
    parts += ["```{toctree}\n:hidden:\nmeasurements\ntable1\n```"]
    (folder / "index.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def with_scene(sources: Path) -> None:
    """Explain a scene of digits for the explorer on the first page."""
    import torch

    from captum_extremal import ExtremalPerturbation, PathSolver
    from captum_extremal.datasets import DigitScenes, digit_network
    from captum_extremal.datasets.digits import to_rgb

    torch.set_num_threads(1)  # the tensors are small
    scene, model = DigitScenes(1, seed=0)[0], digit_network()
    targets = list(scene.labels)
    x, names = scene.image.repeat(len(targets), 1, 1, 1), [f"digit {label}" for label in targets]
    solver = PathSolver(searches=2)
    areas = (0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4)
    found = ExtremalPerturbation(model).extremal_masks(x, target=targets, areas=areas, solver=solver)
    with_explorer(sources, found, to_rgb(x), names)


def with_explorer(sources: Path, found: Any, images: Any, names: list[str]) -> None:
    """Put the explorer on the first page, in the place that is kept for it."""
    from captum_extremal import perturbed_inputs

    page, place = sources / "index.md", "<!-- explorer -->"
    text = page.read_text(encoding="utf-8")
    if place not in text:
        raise ValueError(f"docs/index.md must have the line {place}")
    (sources / "_static").mkdir(exist_ok=True)
    perturbed = perturbed_inputs(found, images)
    found.to_html(sources / "_static" / "explorer.html", images, perturbed=perturbed, names=names)
    shown = (
        '<iframe src="_static/explorer.html" title="Explorer: drag the slider to see how much is enough" '
        'style="width: 100%; height: 66rem; border: 0" loading="lazy"></iframe>\n\n'
        "[The explorer on a page of its own](_static/explorer.html)"
    )
    page.write_text(text.replace(place, shown), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "site"))
