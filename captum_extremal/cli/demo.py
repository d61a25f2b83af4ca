"""``captum-extremal demo``: a scene of digits, explained with the small network in the package."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

from captum_extremal.cli.console import print_table
from captum_extremal.cli.options import Out, option
from captum_extremal.cli.output import (
    FIGURES,
    MASKS_FILE,
    SUMMARY,
    Summary,
    area_text,
    made_folder,
    print_files,
    scores,
    write_figure,
    write_results,
)

if TYPE_CHECKING:
    from torch import Tensor

    from captum_extremal.datasets import DigitScene
    from captum_extremal.results import ExtremalMasks

_AREAS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4)
_STEPS = 60


def demo(
    out: Out = "captum-extremal-demo",
    seed: Annotated[int, option("Which scene: 0, 1, 2, ...", min=0)] = 0,
) -> None:
    """Explain a scene of digits with the small network in the package.

    It needs no download and takes less than a minute.
    """
    from captum_extremal.attr.extremal_perturbation import ExtremalPerturbation
    from captum_extremal.datasets import DigitScenes, digit_network
    from captum_extremal.datasets.digits import to_rgb
    from captum_extremal.search import PathSolver
    from captum_extremal.visualization import compare, show_targets

    folder = made_folder(out)
    scene, network = DigitScenes(1, seed=seed)[0], digit_network()
    labels = list(scene.labels)
    # For several targets of one image, the image is repeated.
    inputs = scene.image.repeat(len(labels), 1, 1, 1)
    print(f"Explaining the digits {', '.join(map(str, labels))} of scene {seed} ...", flush=True)
    solver, show_progress = PathSolver(steps=_STEPS), sys.stderr.isatty()
    with _one_thread():
        method = ExtremalPerturbation(network)
        found = method.extremal_masks(inputs, target=labels, areas=_AREAS, solver=solver, show_progress=show_progress)
    names = [f"digit {label}" for label in labels]
    images, others = to_rgb(inputs), _other_attributions(network, inputs, labels)
    summary = Summary(folder, {"scene": seed, "digits": labels, "settings": found.settings})
    write_figure(show_targets(found, images, names), folder / "overview.png")
    for k, name in enumerate(names):
        base = name.replace(" ", "-")
        files = write_results(found, images, k, folder, base, name)
        figure = compare(found, images, others, k, title=name)
        files["compare"] = write_figure(figure, folder / f"{base}-compare.png")
        row = {"target": labels[k], "name": name} | scores(found.image(k))
        summary.rows.append(row | {"share_in_box": _share_in_box(found, scene, k), "files": files})
    summary.write(complete=True)
    _print(summary)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: the tensors of the demo are so small that threads would mostly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _other_attributions(network: Any, inputs: Tensor, target: list[int]) -> dict[str, Tensor]:
    """Attributions of Captum's own methods, by name: (T, C, H, W)."""
    from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Saliency

    leaf = inputs.clone().requires_grad_()
    saliency, integrated = Saliency(network), cast(Any, IntegratedGradients(network))
    small = LayerGradCam(network, network.features).attribute(leaf, target, relu_attributions=True)
    size = tuple(inputs.shape[2:])
    return {
        "gradient": saliency.attribute(leaf, target),
        "integrated gradients": integrated.attribute(leaf, target=target, n_steps=32),
        "Grad-CAM": cast(Any, LayerAttribution.interpolate(cast(Any, small), size, "bilinear")).detach(),
    }


def _share_in_box(found: ExtremalMasks, scene: DigitScene, index: int) -> float:
    """The fraction of the mask at a* that lies inside the box around the digit's ink."""
    mask = found.image(index).optimal_mask()[0][0]
    x0, y0, x1, y1 = scene.boxes[index].tolist()
    return float(mask[y0:y1, x0:x1].sum() / mask.sum())


def _print(summary: Summary) -> None:
    cells = []
    for row in summary.rows:
        digit, clean, score = f"{row['target']}", f"{row['clean_score']:.2f}", f"{row['score']:.2f}"
        cells.append((digit, clean, area_text(row), score, f"{row['share_in_box']:.0%}"))
    print()
    print_table(cells, ("digit", "clean score", "a*", "score at a*", "share of the mask in the digit's box"))
    print()
    print("a* is the smallest of the areas at which what the mask keeps scores as high as the whole image.")
    files = {
        "overview.png": "every digit's mask at a*; what it hides is dark, what it keeps is outlined",
        **{f"digit-N-{kind}.png": text for kind, text in FIGURES.items()},
        "digit-N-compare.png": "the mask beside other attributions from Captum",
        "digit-N.npz": MASKS_FILE,
        SUMMARY: "all numbers",
    }
    print_files(str(summary.folder.resolve()), files)
