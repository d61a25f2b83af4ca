"""``captum-extremal demo``: two photographs, or a scene of digits with the small network in the package."""

import contextlib
import sys
from typing import Any, cast

import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Saliency
from torch import Tensor

from captum_extremal import visualization
from captum_extremal.attr import ExtremalPerturbation
from captum_extremal.cli import output, photographs
from captum_extremal.cli.console import print_files, print_table
from captum_extremal.cli.sentences import interesting
from captum_extremal.datasets import DigitScenes, digit_network
from captum_extremal.datasets.digits import to_rgb
from captum_extremal.search import PathSolver

_AREAS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4)
_STEPS = 60
_FILES = {
    output.EXPLORER: output.EXPLORER_FILE,
    "overview.png": "every digit's mask at a*; what it hides is dark, what it keeps is outlined",
    **{f"digit-N-{kind}.png": text for kind, text in output.figures().items()},
    "digit-N-compare.png": "the mask beside other attributions from Captum",
    "digit-N.npz": output.MASKS_FILE,
    output.SUMMARY: "all numbers",
}


def run(given: Any) -> int:
    """Explain the photographs, if they are installed and no scene is asked for, else the scene; the exit status."""
    if given.seed is None and photographs.available():
        return photographs.run(given)
    _explain_scene(given.out, given.seed or 0, html=given.html)
    if given.seed is None:
        print("Photographs in place of digits: pip install 'captum-extremal[demo]'")
    return 0


def _explain_scene(out: str, seed: int, *, html: bool) -> None:
    folder, scene, network = output.made_folder(out), DigitScenes(1, seed=seed)[0], digit_network()
    labels, names = list(scene.labels), [f"digit {label}" for label in scene.labels]
    inputs = scene.image.repeat(len(labels), 1, 1, 1)  # once per target
    print(f"Explaining the digits {', '.join(map(str, labels))} of scene {seed} ...", flush=True)
    how: dict[str, Any] = {"areas": _AREAS, "solver": PathSolver(steps=_STEPS), "show_progress": sys.stderr.isatty()}
    with contextlib.ExitStack() as stack:
        # The tensors are so small that threads would mostly wait for each other.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        found = ExtremalPerturbation(network).extremal_masks(inputs, target=labels, **how)
    images, others = to_rgb(inputs), _other_attributions(network, inputs, labels)
    summary = output.Summary(folder, {"scene": seed, "digits": labels, "settings": found.settings})
    summary.replace_older()
    output.write_figure(visualization.show_targets(found, images, names=names), folder / "overview.png")
    page = {"explorer": output.write_explorer(found, images, names, folder)} if html else {}
    cells = []
    for k, name in enumerate(names):
        base = folder / name.replace(" ", "-")
        files = output.write_results(found, images, k, base, name)
        figure = visualization.compare(found, images, k, attributions=others, title=name)
        files["compare"] = output.write_figure(figure, f"{base}-compare.png")
        row: dict[str, Any] = {"target": labels[k], "name": name} | output.scores(found.image(k))
        mask, (x0, y0, x1, y1) = found.image(k).optimal_mask()[0][0], scene.boxes[k].tolist()
        row["share_in_box"] = float(mask[y0:y1, x0:x1].sum() / mask.sum())  # the part of the mask inside of the box
        summary.rows.append(row | {"files": files | page})
        clean, score, share = f"{row['clean_score']:.2f}", f"{row['optimal_score']:.2f}", f"{row['share_in_box']:.0%}"
        cells.append((str(labels[k]), clean, output.area_text(row), score, share))
    summary.write(complete=True)
    print()
    print_table(cells, ("digit", "clean score", "a*", "score at a*", "share of the mask in the digit's box"))
    print("\na* is the smallest of the areas at which what the mask keeps scores as high as the whole image.")
    print_files(folder.resolve(), {name: text for name, text in _FILES.items() if page or name != output.EXPLORER})
    for sentence in interesting(summary.rows):
        print(sentence)


def _other_attributions(network: Any, inputs: Tensor, target: list[int]) -> dict[str, Tensor]:
    """Attributions of Captum's own methods, by name: (T, C, H, W)."""
    leaf = inputs.clone().requires_grad_()
    small: Any = LayerGradCam(network, network.features).attribute(leaf, target, relu_attributions=True)
    return {
        "gradient": Saliency(network).attribute(leaf, target),
        "integrated gradients": cast(Any, IntegratedGradients(network)).attribute(leaf, target=target, n_steps=32),
        "Grad-CAM": cast(Any, LayerAttribution).interpolate(small, tuple(inputs.shape[2:]), "bilinear").detach(),
    }
