"""The explorer of a result as a file: its arguments checked, then written.

Shapes: N images, A areas, K channels, H, W of pictures.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from captum_extremal import _display as display
from captum_extremal import explorer
from captum_extremal._replace import replaced
from captum_extremal.results.explored import Extras, Gallery, Pictures, explanation
from captum_extremal.results.extremal_masks import ExtremalMasks
from captum_extremal.results.tensors import as_tuple


def write(
    found: ExtremalMasks,
    path: str | os.PathLike[str],
    images: Any,
    *,
    perturbed: Any,
    names: Sequence[str] | None,
    others: Any,
    activations: Tensor | None,
    inversions: Mapping[str, Tensor] | None,
    title: str | None,
) -> None:
    """Write what ``ExtremalMasks.to_html`` documents."""
    count = len(found.clean_score)
    further = {f"explanation {k}": one for k, one in enumerate(found.others, 2)}
    own = {"explanation 1" if further else "this result": found} | further
    results = own | (beside := _other_results(others, found))
    if taken := [name for name in beside if name in own]:
        raise ValueError(f"others must have names of their own, got {taken[0]!r}, the name of what they stand beside")
    pictures = {name: _pictures(name, one, images) for name, one in results.items()}
    rows = display.names("names", names, [f"image {n + 1}" for n in range(count)], "image")
    extras = Extras(
        _perturbed(found, perturbed),
        _activations(found, activations),
        {} if inversions is None else _inversions(found, inversions),
    )
    if title is not None and not isinstance(title, str):
        raise TypeError(f"title must be a string, got {title!r}")
    heading = "Which part is enough?" if title is None else title
    gallery = Gallery()
    explanations = [
        explanation(name, one, rows, pictures[name], gallery, Extras() if k else extras)
        for k, (name, one) in enumerate(results.items())
    ]
    data = {"title": heading, "explanations": explanations, "pictures": gallery.urls}
    with replaced(path) as partial, open(partial, "w", encoding="ascii", newline="\n") as file:
        file.write(explorer.page(heading, data))


def _other_results(others: Any, found: ExtremalMasks) -> dict[str, ExtremalMasks]:
    """The other results by their names."""
    if isinstance(others, Mapping):
        given = {str(name): one for name, one in others.items()}
    elif isinstance(others, Sequence) and not isinstance(others, str):
        given = {f"result {k}": one for k, one in enumerate(others, 2)}
    else:
        raise TypeError(f"others must be a sequence or a dict of ExtremalMasks, got {type(others).__name__}")
    for name, one in given.items():
        if not isinstance(one, ExtremalMasks):
            raise TypeError(f"others[{name!r}] must be an ExtremalMasks, got {type(one).__name__}")
        if len(one.clean_score) != len(found.clean_score):
            rule = f"of the same {len(found.clean_score)} images"
            raise ValueError(f"others[{name!r}] must be {rule}, got {len(one.clean_score)}")
    return given


def _pictures(name: str, found: ExtremalMasks, images: Any) -> Pictures:
    """The pictures of each input tensor, those of them that have any."""
    masks, count = as_tuple(found.masks), len(found.clean_score)
    if images is None:
        return [None] * len(masks)
    if isinstance(found.masks, tuple) != isinstance(images, tuple) or len(as_tuple(images)) != len(masks):
        raise ValueError(f"images must be as many as the masks' tensors, {len(masks)}, got {len(as_tuple(images))}")
    checked: list[Tensor | None] = []
    each: tuple[Any, ...] = as_tuple(images)
    for given, of_input in zip(each, masks):
        is_layer = "layer" in found.settings or of_input.dim() == 3
        if given is None:
            checked.append(None)
        elif of_input.dim() in (4, 6):
            rule = "None for masks of signals and volumes, which have no picture"
            raise ValueError(f"images must be {rule}, got {type(given).__name__} for masks {tuple(of_input.shape)}")
        elif is_layer:
            checked.append(display.images("images", given, count))
        else:
            rule = "of the masks' size, "
            checked.append(display.images("images", given, count, tuple(of_input.shape[3:]), rule))
    return checked


def _perturbed(found: ExtremalMasks, perturbed: Any) -> Pictures:
    if perturbed is None:
        return ()
    masks, areas = as_tuple(found.masks), len(found.areas)
    if isinstance(found.masks, tuple) != isinstance(perturbed, tuple) or len(as_tuple(perturbed)) != len(masks):
        raise ValueError(
            f"perturbed must be as many as the masks' tensors, {len(masks)}, got {len(as_tuple(perturbed))}"
        )
    for given, of_input in zip(as_tuple(perturbed), masks):
        if given is not None:
            first = (len(of_input), areas), (len(of_input), areas + 1)
            shapes = [(*pair, channels, *of_input.shape[3:]) for pair in first for channels in (3, 1)]
            if of_input.dim() != 5 or "layer" in found.settings:
                raise ValueError(f"perturbed must be None for masks of {tuple(of_input.shape)}: they are not of images")
            display.tensor("perturbed", given, *shapes, display=True)
    return as_tuple(perturbed)


def _activations(found: ExtremalMasks, activations: Tensor | None) -> Tensor | None:
    if activations is None:
        return None
    masks = as_tuple(found.masks)
    if len(masks) > 1 or found.covers != "channels":
        raise ValueError(f"activations must be None for masks that are not of one layer's channels, got {found!r}")
    return display.tensor("activations", activations, (len(masks[0]), masks[0].shape[-1], "h", "w")).detach()


def _inversions(found: ExtremalMasks, inversions: Any) -> dict[str, Tensor]:
    if not isinstance(inversions, Mapping):
        raise TypeError(f"inversions must be a dict of names and pictures, got {type(inversions).__name__}")
    if found.covers != "channels":
        raise ValueError(f"inversions must be None for masks that are not of channels, got {found!r}")
    count = len(found.clean_score)
    return {
        str(name): display.images(f"inversions[{name!r}]", pictures, count) for name, pictures in inversions.items()
    }
