r"""What the model saw: the inputs under the masks of a result, :math:`m \otimes x` of section 3.4.

Shapes: N images, A areas, C channels, positions S.
"""

import ast
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_extremal._captum import BaselineType
from captum_extremal.arguments import Tensors, check_baselines, check_inputs
from captum_extremal.perturbations import BlurPyramid, FadePyramid, Perturbation, of_each_input
from captum_extremal.results import ExtremalMasks
from captum_extremal.results.tensors import as_tuple
from captum_extremal.session import channels_at, channels_first
from captum_extremal.settings import as_perturbation

_KNOWN: dict[str, Callable[..., Perturbation]] = {kind.__name__: kind for kind in (BlurPyramid, FadePyramid)}


@torch.no_grad()
def perturbed_inputs(
    found: ExtremalMasks,
    inputs: Tensor | Tensors,
    baselines: BaselineType = None,
    *,
    perturbation: str | Perturbation | None = None,
    optimum: bool = False,
    channel_dim: int | None = None,
) -> Any:
    r"""What the model saw under each mask: :math:`m_a \otimes x`, by the search's own perturbation.

    Args:
        found: the masks of these inputs, of :meth:`ExtremalPerturbation.extremal_masks`.
        inputs: (N, C, *S), or a tuple where the search was given one. Pictures in [0, 1] give pictures in [0, 1]: the
            blur commutes with the model's normalisation, and "fade" does where ``baselines`` are those of the search,
            without it.
        baselines: what "fade" fades to, as the search was given them; default 0. The blur does not use them.
        perturbation: the search's, where it is an object of your own. None for the one that ``found.settings`` say.
        optimum: also under the mask of a*, as the last of A + 1.
        channel_dim: of the inputs, as the search was given it; the result has the channels where they have them.

    Returns:
        (N, A, C, *S), or (N, A + 1, C, *S) with ``optimum``, in the inputs' type; a tuple where they are one.

    Raises:
        TypeError, ValueError: ``found`` does not hold masks of these inputs, or another argument is bad.

    Examples::

        >>> found = ExtremalPerturbation(model).extremal_masks(x, target=207)
        >>> rgb = (x * std + mean).clamp(0, 1)
        >>> seen = perturbed_inputs(found, rgb, optimum=True)
        >>> found.to_html("explorer.html", rgb, perturbed=seen)
    """
    given = check_inputs(inputs, channel_dim)
    dims = tuple((1 if channel_dim is None else channel_dim) % x.dim() for x in given)
    references = channels_first(check_baselines(given, baselines, isinstance(inputs, tuple)), dims)
    tensors = channels_first(given, dims)
    check_masks_of(found, tensors, isinstance(inputs, tuple))
    own = of_each_input(searched_with(found, perturbation), len(tensors))
    made = []
    each = zip(own, tensors, references, as_tuple(found.masks), as_tuple(found.optimal_masks), dims)
    for part, x, baseline, masks, best, dim in each:
        dtype = torch.promote_types(x.dtype, torch.float32)
        rows = torch.cat([masks, best[:, None]], dim=1) if optimum else masks
        perturb = part.bind(x.to(dtype), baseline.to(dtype))
        # Area by area, to limit the memory.
        seen = [perturb(rows[:, k].to(x.device, dtype)).to(x.dtype) for k in range(rows.shape[1])]
        if any(one.shape != x.shape for one in seen):
            raise ValueError(f"perturbation must give one input for each mask, not samples of several, got {part!r}")
        own_layout = channels_at((x, *seen), (dim,) * (1 + len(seen)))
        made.append(torch.stack(own_layout, dim=1)[:, 1:])
    return tuple(made) if isinstance(inputs, tuple) else made[0]


def check_masks_of(found: object, inputs: Tensors, is_tuple: bool) -> None:
    """Raise TypeError or ValueError unless a result holds masks of these inputs, each (N, C, *S)."""
    if not isinstance(found, ExtremalMasks):
        raise TypeError(f"found must be ExtremalMasks, the result of extremal_masks(), got {type(found).__name__}")
    if "layer" in found.settings:
        raise ValueError(f"found must hold masks of inputs, got masks of the layer {found.settings['layer']!r}")
    if found.group_ids is not None:
        raise ValueError("found must hold masks over positions, got masks over groups of features")
    given = [tuple(masks.shape) for masks in as_tuple(found.masks)]
    wanted = [(len(x), len(found.areas), 1, *x.shape[2:]) for x in inputs]
    if given != wanted or isinstance(found.masks, tuple) != is_tuple:
        rule = f"the masks of these inputs, {_shapes_text(wanted, is_tuple)}"
        raise ValueError(f"found must hold {rule}, got {_shapes_text(given, isinstance(found.masks, tuple))}")


def searched_with(found: ExtremalMasks, perturbation: str | Perturbation | None) -> Perturbation:
    """The search's perturbation: the given one, or the one that the settings describe."""
    if perturbation is not None:
        return as_perturbation(perturbation)
    text = found.settings.get("perturbation")
    try:
        parsed: Any = ast.parse(str(text), mode="eval")
        given = {part.arg: ast.literal_eval(part.value) for part in parsed.body.keywords}
        return _KNOWN[parsed.body.func.id](**given)
    except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
        rule = "perturbation must be given where found.settings do not tell all of the search's"
        raise ValueError(f"{rule}, got None for masks searched with {text!r}") from error


def _shapes_text(shapes: list[tuple[int, ...]], is_tuple: bool) -> str:
    return f"a tuple of {', '.join(map(str, shapes))}" if is_tuple else f"one tensor {shapes[0]}"
