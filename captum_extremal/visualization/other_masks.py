"""Extremal masks beside the masks of other methods, after figure 6 of the paper."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._arguments import array, check_attributions
from captum_extremal.visualization._masked import draw_kept, draw_masked, view_of
from captum_extremal.visualization._panels import INK, NORMAL, box_title, draw_image, panels
from captum_extremal.visualization._wording import kind, optimal_index, percent

_ROUNDING = 1e-3  # by which an enlarged mask may leave [0, 1]


def compare_masks(
    found: ExtremalMasks,
    images: Tensor,
    masks: Mapping[str, Tensor],
    index: int = 0,
    *,
    input_index: int = 0,
    title: str | None = None,
) -> Figure:
    """The image under other methods' masks, and under the extremal masks of every area (figure 6).

    What a mask hides is dark and grey, as in :func:`show_mask`. Figure 6 has the masks of Fong and Vedaldi (ICCV 2017),
    which :class:`~captum_extremal.MeaningfulPerturbation` makes.

    Args:
        found, images, index, input_index, title: as :func:`show_mask`.
        masks: name -> (N, C, H, W) in [0, 1], 1 where the method keeps or points; the channels are averaged.

    Returns:
        a figure of the image, then a panel a method with the area of its mask (its mean), then one an area; that of a*
        is boxed.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or values.
        IndexError: there is no such image.
    """
    view = view_of(found, images, index, input_index)
    others = check_attributions("masks", masks, view.shape, len(found.clean_score))
    for name, values in others.items():
        _check_mask(f"masks[{name!r}]", values)
    areas = view.found.areas.tolist()
    figure, rows = panels(
        view.shape, 1 + len(others) + len(areas), base=1.7, title=title, title_lines=2, least_width=1.3
    )
    axes = [ax for row in rows for ax in row]
    draw_image(axes[0], view.rgb, "image")
    for ax, (name, values) in zip(axes[1:], others.items()):
        mask = array(values[index].double().mean(0))
        draw_kept(ax, view.rgb, mask)
        ax.set_title(f"{name}\n{percent(float(mask.mean()))}", fontsize=NORMAL, color=INK)
    best = optimal_index(view.found)
    for k, (ax, area) in enumerate(zip(axes[1 + len(others) :], areas)):
        draw_masked(ax, view, k, outline=k == best)
        box_title(ax, f"{kind(view.found)}\n{percent(area)}", boxed=k == best)
    return figure


def _check_mask(name: str, values: Tensor) -> None:
    low, high = values.min().item(), values.max().item()
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(f"{name} must be a mask in [0, 1], got values from {low:.3g} to {high:.3g}")
