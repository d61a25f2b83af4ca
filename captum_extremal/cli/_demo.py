"""``captum-extremal demo``: a scene of digits, explained by the small network in the package."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from captum_extremal.cli._arguments import natural
from captum_extremal.cli._figures import FIGURES, MASKS_FILE, area_text, print_files, write_figure, write_results
from captum_extremal.cli._summary import SUMMARY, Summary, made_folder, scores

if TYPE_CHECKING:
    from torch import Tensor

    from captum_extremal.datasets import DigitScene
    from captum_extremal.results import ExtremalMasks

_AREAS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4)
_STEPS = 60


def add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="explain a scene of digits with the small network in the package",
        description="Explain each digit of a scene with the small network in the package: no download, under a minute.",
    )
    demo.add_argument("--out", metavar="DIR", default="captum-extremal-demo", help="folder to write to (%(default)s)")
    demo.add_argument("--seed", type=natural, default=0, help="which scene: 0, 1, 2, ... (%(default)s)")
    demo.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation
    from captum_extremal.datasets import DigitScenes, digit_network
    from captum_extremal.datasets.digits import to_rgb
    from captum_extremal.search import PathSolver
    from captum_extremal.visualization import compare, show_targets

    folder = made_folder(options.out)
    scene = DigitScenes(1, seed=options.seed)[0]
    network = digit_network()
    # Several targets of one image: the image repeated, and a list of targets.
    inputs = scene.image.repeat(len(scene.labels), 1, 1, 1)
    print(f"Explaining the digits {', '.join(map(str, scene.labels))} of scene {options.seed} ...", flush=True)
    with _one_thread():
        found = ExtremalPerturbation(network).extremal_masks(
            inputs,
            target=list(scene.labels),
            areas=_AREAS,
            solver=PathSolver(steps=_STEPS),
            show_progress=sys.stderr.isatty(),
        )
    names = [f"digit {label}" for label in scene.labels]
    images, others = to_rgb(inputs), _other_attributions(network, inputs, list(scene.labels))
    summary = Summary(folder, {"scene": options.seed, "digits": list(scene.labels), "settings": found.settings})
    write_figure(show_targets(found, images, names), folder / "overview.png")
    for k, name in enumerate(names):
        base = name.replace(" ", "-")
        files = write_results(found, images, k, folder, base, name)
        comparison = compare(found, images, others, k, title=name)
        files["compare"] = write_figure(comparison, folder / f"{base}-compare.png")
        row = {"target": scene.labels[k], "name": name} | scores(found.image(k))
        summary.rows.append(row | {"share_in_box": _share_in_box(found, scene, k), "files": files})
    summary.write(complete=True)
    _print_demo(summary.rows, folder)
    return 0


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The demo's tensors are too small to share: on a busy machine, threads would mostly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _other_attributions(network: Any, inputs: Tensor, target: list[int]) -> dict[str, Tensor]:
    """What Captum's own methods say of the same images: name -> (T, C, H, W)."""
    from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Saliency

    leaf = inputs.clone().requires_grad_()
    saliency, integrated = Saliency(network), cast(Any, IntegratedGradients(network))
    coarse = LayerGradCam(network, network.features).attribute(leaf, target, relu_attributions=True)
    side = tuple(inputs.shape[2:])
    return {
        "gradient": saliency.attribute(leaf, target),
        "integrated gradients": integrated.attribute(leaf, target=target, n_steps=32),
        "Grad-CAM": cast(Any, LayerAttribution.interpolate(cast(Any, coarse), side, "bilinear")).detach(),
    }


def _share_in_box(found: ExtremalMasks, scene: DigitScene, index: int) -> float:
    """How much of the mask at a* lies inside the box around the digit's ink."""
    mask = found.image(index).optimal_mask()[0][0]
    x0, y0, x1, y1 = scene.boxes[index].tolist()
    return float(mask[y0:y1, x0:x1].sum() / mask.sum())


def _print_demo(rows: list[dict[str, Any]], folder: Path) -> None:
    print()
    print("digit   clean score      a*   score at a*   share of the mask in the digit's box")
    for row in rows:
        print(
            f"{row['target']:>5}   {row['clean_score']:>11.2f}   {area_text(row):>5}   {row['score']:>11.2f}"
            f"   {row['share_in_box']:>36.0%}"
        )
    print()
    print("a* is the smallest of the areas at which what the mask keeps scores as high as the whole image.")
    print(f"Written to {folder.resolve()}:")
    files = {"overview.png": "every digit's mask at a*; what it hides is dark, what it keeps is outlined"}
    files |= {f"digit-N-{kind}.png": text for kind, text in FIGURES.items()}
    files |= {
        "digit-N-compare.png": "the mask beside other attributions from Captum",
        "digit-N.npz": MASKS_FILE,
        SUMMARY: "all numbers",
    }
    print_files(files)
