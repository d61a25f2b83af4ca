"""What the figures check of their arguments, and the arrays they make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from captum_extremal._checks import check_count, check_number
from captum_extremal.results import ExtremalMasks
from captum_extremal.visualization._panels import Array


def check_found(found: object) -> ExtremalMasks:
    """The result of a search."""
    if not isinstance(found, ExtremalMasks):
        raise TypeError(f"found must be an ExtremalMasks, the result of extremal_masks(), got {type(found).__name__}")
    return found


def check_images(name: str, images: object, count: int | None) -> Tensor:
    """Images (N, 3, H, W) or (N, 1, H, W) in [0, 1]; N is ``count``, or any number."""
    given = _check_display(name, images)
    rows = "N" if count is None else str(count)
    if given.dim() != 4 or given.shape[1] not in (1, 3) or not given.numel() or count not in (None, len(given)):
        raise ValueError(f"{name} must be ({rows}, 3, H, W) or ({rows}, 1, H, W), got shape {tuple(given.shape)}")
    _check_range(name, given)
    return given


def check_images_of_masks(images: object, shape: tuple[int, int, int]) -> Tensor:
    """Images (N, 3, H, W) or (N, 1, H, W) in [0, 1], for N masks of H x W."""
    given = _check_display("images", images)
    count, height, width = shape
    if given.dim() != 4 or given.shape[1] not in (1, 3) or (len(given), *given.shape[2:]) != shape:
        raise ValueError(
            f"images must be of the masks' size, ({count}, 3, {height}, {width}) or ({count}, 1, {height}, {width}), "
            f"got shape {tuple(given.shape)}"
        )
    _check_range("images", given)
    return given


def check_image(name: str, image: object) -> Tensor:
    """One image (3, H, W) or (1, H, W) in [0, 1]."""
    given = _check_display(name, image)
    if given.dim() != 3 or given.shape[0] not in (1, 3) or not given.numel():
        raise ValueError(f"{name} must be (3, H, W) or (1, H, W), got shape {tuple(given.shape)}")
    _check_range(name, given)
    return given


def check_heat_maps(heat_maps: object, count: int) -> Tensor:
    """Finite maps, as (N, h, w)."""
    if not isinstance(heat_maps, Tensor):
        raise TypeError(f"heat_maps must be a tensor, got {type(heat_maps).__name__}")
    if not heat_maps.is_floating_point():
        raise TypeError(f"heat_maps must be a floating tensor, got {heat_maps.dtype}")
    maps = heat_maps.squeeze(1) if heat_maps.dim() == 4 else heat_maps
    if maps.dim() != 3 or len(maps) != count or not maps.numel():
        raise ValueError(
            f"heat_maps must be ({count}, 1, h, w) or ({count}, h, w), got shape {tuple(heat_maps.shape)}: "
            "the masked activation summed over its channels"
        )
    if not bool(maps.isfinite().all()):
        raise ValueError(f"heat_maps must be finite, got NaN or infinite values in shape {tuple(heat_maps.shape)}")
    return maps


def check_index(index: object, count: int) -> None:
    """Which of ``count`` images."""
    check_count("index", index, at_least=None)
    if not -count <= index < count:  # type: ignore[operator]
        raise IndexError(f"index must be from {-count} to {count - 1}, got {index}")


def check_attributions(name: str, given: object, shape: tuple[int, int], count: int) -> dict[str, Tensor]:
    """Finite attributions (N, C, H, W) of N = ``count`` images of this shape, by name."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict of names and tensors, got {type(given).__name__}")
    for key, values in given.items():
        _check_attribution(f"{name}[{key!r}]", values, shape, count)
    return {str(key): values for key, values in given.items()}


def _check_attribution(name: str, values: object, shape: tuple[int, int], count: int) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(values).__name__}")
    if values.dim() != 4 or len(values) != count or tuple(values.shape[2:]) != shape or not values.numel():
        raise ValueError(
            f"{name} must be ({count}, C, {shape[0]}, {shape[1]}), got shape {tuple(values.shape)}: "
            "captum.attr.LayerAttribution.interpolate brings a layer's map to the image's size"
        )
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite values")


def check_names(name: str, names: Sequence[str], count: int, each: str) -> list[str]:
    """``count`` strings, one for each target, say."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(one, str) for one in names):
        raise TypeError(f"{name} must be a sequence of strings, got {names!r}")
    if len(names) != count:
        raise ValueError(f"{name} must be {count}, one for each {each}, got {len(names)}")
    return list(names)


def check_values(name: str, values: object, count: int, each: str) -> list[float]:
    """``count`` finite numbers, one for each example, say."""
    if isinstance(values, Tensor) and values.dim() != 1:
        raise ValueError(f"{name} must be ({count},), got shape {tuple(values.shape)}")
    listed = values.tolist() if isinstance(values, Tensor) else values
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise TypeError(f"{name} must be a sequence of numbers or a tensor ({count},), got {values!r}")
    if len(listed) != count:
        raise ValueError(f"{name} must be {count}, one for each {each}, got {len(listed)}")
    for k, value in enumerate(listed):
        check_number(f"{name}[{k}]", value)
    return [float(value) for value in listed]


def as_rgb(image: Tensor) -> Array:
    """A picture (H, W, 3) in [0, 1] of an image (3, H, W) or (1, H, W)."""
    picture: Array = array(image).clip(0, 1).transpose(1, 2, 0).repeat(3 // image.shape[0], axis=2)
    return picture


def array(values: Tensor) -> Array:
    """The same numbers, wherever the tensor lies."""
    found: Array = values.detach().cpu().double().numpy()
    return found


def _check_display(name: str, images: object) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor in [0, 1], got {images.dtype}")
    return images


def _check_range(name: str, images: Tensor) -> None:
    low, high = images.min().item(), images.max().item()
    # What undoes a normalisation may overshoot by rounding; NaN fails both comparisons.
    if not (low >= -0.01 and high <= 1.01):
        raise ValueError(
            f"{name} must be in [0, 1], for display: undo the model's normalisation; "
            f"got values from {low:.3g} to {high:.3g}"
        )
