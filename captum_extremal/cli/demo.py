"""``captum-extremal demo``: what is enough for two photographs, or for a scene of digits."""

import contextlib
import sys
from pathlib import Path
from typing import Any, cast

import torch
from captum.attr import LayerAttribution, LayerGradCam, Saliency
from torch import Tensor

from captum_extremal import visualization
from captum_extremal.attr import ExtremalPerturbation
from captum_extremal.cli import cases, output
from captum_extremal.cli.cases import Case
from captum_extremal.cli.console import LinesOfProgress, print_files, print_table
from captum_extremal.cli.file_names import slug
from captum_extremal.cli.sentences import interesting
from captum_extremal.results import ExtremalMasks

_OVERVIEW = "overview.png"
_FILES = {
    _OVERVIEW: "each mask of a*, beside other attributions from Captum",
    **{f"NAME-{kind}.png": text for kind, text in output.figures().items()},
    "NAME.npz": output.MASKS_FILE,
    output.SUMMARY: "all numbers",
}


def run(given: Any) -> int:
    """Explain the photographs, if they are installed and no scene is asked for, else the scene; the exit status."""
    folder = output.made_folder(given.out)
    if given.seed is None and cases.has_photographs():
        print("Loading two photographs, and a small network that knows the 1000 classes of ImageNet ...", flush=True)
        case = cases.photographs()
        seen = (
            f"{name} ({100 * fact['probability']:.0f} %) in {fact['photo']}"
            for name, fact in zip(case.names, case.facts)
        )
        print(f"The network sees: {', '.join(seen)}.")
    else:
        case = cases.scene(given.seed or 0)
        print(f"Scene {given.seed or 0} has the {', the '.join(case.names)}.")
    print("Searching for the smallest part of the image that is enough for each of these ...", flush=True)
    _explain(case, folder, html=given.html)
    if given.seed is None and not cases.has_photographs():
        print("Photographs in place of digits: pip install 'captum-extremal[demo]'")
    print("Your own photographs: captum-extremal explain photo.jpg --model resnet50 --html")
    return 0


def _explain(case: Case, folder: Path, *, html: bool) -> None:
    """Search, write the results to the folder, and print what was found."""
    found = _search(case)
    summary = output.Summary(folder, {"targets": case.targets, "settings": found.settings})
    summary.replace_older()
    page = {"explorer": output.write_explorer(found, case.images, case.names, folder)} if html else {}
    if html:
        print(
            f"\nOpen this page in a browser, and drag the slider:\n  {(folder / output.EXPLORER).resolve()}",
            flush=True,
        )
    every, others = range(len(case.names)), _other_attributions(case)
    figure = visualization.compare(found, case.images, others, every, names=case.names)
    page |= {"overview": output.write_figure(figure, folder / _OVERVIEW)}
    for k, name in enumerate(case.names):
        files = output.write_results(found, case.images, k, folder / slug(name), name)
        row: dict[str, Any] = {"target": case.targets[k], "name": name} | case.facts[k] | output.scores(found.image(k))
        if case.boxes is not None:
            row["share_in_box"] = _share_within(case.boxes[k], found.image(k))
        summary.rows.append(row | {"files": files | page})
    summary.write(complete=True)
    print()
    _print(summary.rows)
    print_files(folder.resolve(), ({output.EXPLORER: output.EXPLORER_FILE} if html else {}) | _FILES)


def _search(case: Case) -> ExtremalMasks:
    """The masks of all images at once."""
    # About as many passes for the path of areas and for a* as the solver has steps, and between them the refinement.
    passes = round((2 + case.solver.refinement) * case.solver.steps)
    lines = None if sys.stderr.isatty() else LinesOfProgress(passes)
    how: dict[str, Any] = {"solver": case.solver, "show_progress": lines is None, "callback": lines}
    with contextlib.ExitStack() as stack:
        if case.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(case.threads)
        found = ExtremalPerturbation(case.network).extremal_masks(case.inputs, target=case.targets, **how)
    if lines is not None:
        lines.finish()
    return found


def _share_within(box: Tensor, one: ExtremalMasks) -> float | None:
    """The part of a mask of a* that lies in a box (4,); None where nothing is kept."""
    mask, (x0, y0, x1, y1) = one.optimal_mask()[0][0], box.tolist()
    return float(mask[y0:y1, x0:x1].sum() / mask.sum()) if bool(mask.any()) else None


def _print(rows: list[dict[str, Any]]) -> None:
    head, cells = ["", "score of all", "a*", "score at a*"], []
    for row in rows:
        numbers = f"{row['clean_score']:.2f}", output.area_text(row), f"{row['optimal_score']:.2f}"
        shares = [
            "" if share is None else f"{100 * share:.0f} %" for key, share in row.items() if key == "share_in_box"
        ]
        cells.append([row["name"], *numbers, *shares])
    print_table(cells, head + ["mask in the digit's box"] * ("share_in_box" in rows[0]))
    print("\na* is the smallest area that was found at which what the mask keeps scores as high as the whole image.")
    for sentence in interesting(rows):
        print(f"- {sentence}")
    print()


def _other_attributions(case: Case) -> dict[str, Tensor]:
    """Attributions of Captum's own methods, by name: (T, C, H, W)."""
    leaf = case.inputs.clone().requires_grad_()
    small: Any = LayerGradCam(case.network, case.layer).attribute(leaf, case.targets, relu_attributions=True)
    return {
        "gradient": Saliency(case.network).attribute(leaf, case.targets),
        "Grad-CAM": cast(Any, LayerAttribution).interpolate(small, tuple(leaf.shape[2:]), "bilinear").detach(),
    }
