"""What a notebook shows of a result: its masks without pictures, and the curve of the scores, as plain HTML.

There is no script in it, so that it shows in notebooks that are not trusted, and in their exports.
"""

import html
from collections.abc import Sequence

from captum_extremal import explorer
from captum_extremal.results.extremal_masks import ExtremalMasks
from captum_extremal.results.shown import Shown, shown_masks
from captum_extremal.results.tensors import as_array, as_tuple

_IMAGES, _MASKS = 4, 8  # at most so many are shown
_WIDTH, _HEIGHT, _PAD = 260, 110, 8  # pixels of a curve
_BLUE, _ORANGE, _GREEN, _GOLD = "#0072b2", "#d55e00", "#00845c", "#a87900"


def as_html(found: ExtremalMasks) -> str:
    """The result's text, and for each image its masks and its curve."""
    images = len(found.clean_score)
    shown = [_image(found.image(n), f"image {n + 1}" if images > 1 else "") for n in range(min(images, _IMAGES))]
    left = f"<p>{images - _IMAGES} more images are not shown.</p>" if images > _IMAGES else ""
    return f"<div><p><code>{html.escape(repr(found))}</code></p>{''.join(shown)}{left}</div>"


def _image(one: ExtremalMasks, name: str) -> str:
    of_parts = [shown_masks(one, part) for part in range(len(as_tuple(one.masks)))]
    heading = f"<p><b>{name}</b></p>" if name else ""
    strips = "".join(_strip(masks) for masks in of_parts if masks[0].mask.dim() == 3)
    return f"{heading}{strips}{_curve(one, of_parts[0])}"


def _strip(masks: Sequence[Shown]) -> str:
    """The masks (1, H, W) of the areas side by side, evenly chosen where there are too many."""
    step = -(-len(masks) // _MASKS)
    cells = [_mask(shown) for k, shown in enumerate(masks) if k % step == 0 or shown.is_optimum]
    return f'<div style="display:flex;flex-wrap:wrap;gap:6px">{"".join(cells)}</div>'


def _mask(shown: Shown) -> str:
    name = f"{'a* = ' * shown.is_optimum}{100 * shown.area:.3g} %"
    url = explorer.data_url(explorer.as_bytes(as_array(shown.mask[0])))
    text = html.escape(f"mask of {name}, score {shown.score:.4g}")
    border = f"2px solid {_GOLD}" if shown.is_optimum else "1px solid #8888"
    picture = f'<img src="{url}" alt="{text}" title="{text}" style="width:84px;border:{border}">'
    return f'<figure style="margin:0;font-size:12px">{picture}<figcaption>{name}</figcaption></figure>'


def _curve(one: ExtremalMasks, masks: Sequence[Shown]) -> str:
    """The scores against the area, as SVG: kept (discs), removed (squares), the clean score, and a*."""
    clean, scores = float(one.clean_score), [[shown.score for shown in masks], [shown.complement for shown in masks]]
    low, high = min(clean, *scores[0], *scores[1]), max(clean, *scores[0], *scores[1])
    right = max(shown.area for shown in masks) or 1.0

    def x(area: float) -> float:
        return _PAD + (_WIDTH - 2 * _PAD) * area / right

    def y(score: float) -> float:
        return _HEIGHT - _PAD - (_HEIGHT - 2 * _PAD) * (score - low) / ((high - low) or 1.0)

    kept, removed = ([(x(shown.area), y(score)) for shown, score in zip(masks, line)] for line in scores)
    parts = [f'<path d="M{_PAD} {y(clean):.1f}H{_WIDTH - _PAD}" stroke="{_GREEN}" stroke-dasharray="5 3"/>']
    optimum = next((shown for shown in masks if shown.is_optimum), None)
    if optimum is not None:
        at = f'<path d="M{x(optimum.area):.1f} {_PAD}V{_HEIGHT - _PAD}" stroke="{_GOLD}" stroke-width="2"/>'
        parts.append(at)
    for line, colour in ((kept, _BLUE), (removed, _ORANGE)):
        points = "L".join(f"{u:.1f} {v:.1f}" for u, v in line)
        parts.append(f'<path d="M{points}" fill="none" stroke="{colour}"/>')
    parts += [f'<circle cx="{u:.1f}" cy="{v:.1f}" r="3.5" fill="{_BLUE}"/>' for u, v in kept]
    squares = [(u - 3, v - 3) for u, v in removed]
    parts += [f'<rect x="{u:.1f}" y="{v:.1f}" width="6" height="6" fill="{_ORANGE}"/>' for u, v in squares]
    label = f"scores from {low:.4g} to {high:.4g} against the area, up to {100 * right:.3g} %"
    told = f"discs: score of what is kept; squares: without it; dashed: clean score {clean:.4g}; {label}"
    drawing = f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f'<div>{drawing}<div style="font-size:12px">{told}</div></div>'
