"""The result of a search: the masks of every area, their scores, and a* (equation 3)."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from captum_extremal._checks import check_callable, check_count, check_number
from captum_extremal.perturbations import gaussian_blur
from captum_extremal.search.games import Game

_SALIENCY_BLUR = 0.09  # of the shorter side (section 4.2)
_CONTRAST_BLUR = 0.01  # of the shorter side, so that no single noisy pixel is the maximum
_FORMAT = 1


@dataclass(frozen=True, eq=False, repr=False)
class ExtremalMasks:
    """Extremal masks of N images at A areas, with their scores.

    Attributes:
        masks: (N, A, 1, *S) for positions, (N, A, K) for channels; a tuple where the inputs were a tuple.
        areas: (A,), increasing fractions of the input. The mean of every mask.
        scores: (N, A), the model's score of what each mask keeps.
        complement_scores: (N, A), its score of the input without the mask's region.
        clean_score: (N,), the score of the inputs.
        perturbed_score: (N,), the score of the fully perturbed inputs.
        values: (N, A), the game's value at each mask, which was maximised and is compared with the threshold.
        threshold: (N,), Phi_0 of equation 3, in units of the game's value.
        sigma: (A,), the radius in pixels of the smooth masks' disks at each area; NaN for masks without disks, 0 for
            masks that no search made. (A, inputs) where the inputs were a tuple.
        settings: how the masks were made, as plain values: game, perturbation, mask, solver, steps, seconds, versions.
        contrast: (N, 1, *S), how far the full perturbation moves each position of the inputs, the Euclidean norm over
            their channels; a tuple where the inputs were a tuple. None for channels.
    """

    masks: Tensor | tuple[Tensor, ...]
    areas: Tensor
    scores: Tensor
    complement_scores: Tensor
    clean_score: Tensor
    perturbed_score: Tensor
    values: Tensor
    threshold: Tensor
    sigma: Tensor
    settings: dict[str, Any]
    contrast: Tensor | tuple[Tensor, ...] | None = None

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(mask.shape)) for mask in _as_tuple(self.masks))
        areas, optimal = ([round(value, 4) for value in t.tolist()] for t in (self.areas, self.optimal_area))
        return f"ExtremalMasks(masks={shapes}, areas={areas}, optimal_area={optimal})"

    @property
    def covers(self) -> str:
        """What the masks cover: "channels" where every tensor of them is (N, A, K), else "positions"."""
        return "channels" if all(masks.dim() == 3 for masks in _as_tuple(self.masks)) else "positions"

    @property
    def reached(self) -> Tensor:
        """(N,) bool: whether the value reaches the threshold at any of the areas."""
        return self._reaching().any(1)

    @property
    def optimal_area(self) -> Tensor:
        """a* (N,) of equation 3: the smallest of the areas whose value reaches the threshold; NaN where none does."""
        smallest = self.areas[self._reaching().to(torch.int8).argmax(1)]
        return smallest.masked_fill(~self.reached, torch.nan)

    @property
    def optimal_index(self) -> Tensor:
        """(N,) int64: which of the areas is a*; the last, the largest area's, where none is."""
        first = self._reaching().to(torch.int8).argmax(1)
        return first.masked_fill(~self.reached, len(self.areas) - 1)

    @property
    def binariness(self) -> Tensor | tuple[Tensor, ...]:
        """(N, A): sum m^2 / sum m. It is 1 for a binary mask, and the area for a constant one."""
        return _each(_binariness, self.masks)

    def optimal_mask(self) -> Tensor | tuple[Tensor, ...]:
        """m_a* of each image, (N, 1, *S) or (N, K); the largest area's mask where the threshold is not reached."""
        rows = torch.arange(len(self.clean_score), device=self.areas.device)
        return _each(lambda masks: masks[rows, self.optimal_index], self.masks)

    def saliency(self, blur: float = _SALIENCY_BLUR) -> Tensor | tuple[Tensor, ...]:
        """The pointing map of section 4.2: the sum of the masks over the areas, blurred.

        Args:
            blur: standard deviation as a fraction of the image's shorter side; 0 leaves the sum as it is.

        Returns:
            (N, 1, *S), a map whose maximum is where the model looks first; (N, K) for channels, not blurred.

        Raises:
            TypeError, ValueError: ``blur`` is not a number of at least 0.
        """
        check_number("blur", blur, at_least=0)
        return _each(lambda masks: _summed(masks, blur), self.masks)

    def refined_saliency(self) -> Tensor | tuple[Tensor, ...]:
        r"""A map that also points within masks: their weighted mean, and the image's contrast where all of them agree.

        Each mask is divided by its area, so that all have the same total. In a plain sum the largest mask, which is the
        least exact, would count most. Smooth masks have no detail finer than their disks, and are flat in the middle.
        So positions that every mask keeps are ordered by how far the perturbation would change them:

        .. math::

            \frac{\sum_a m_a / a}{\sum_a 1 / a} + \frac{c}{\max c} \prod_a m_a

        with c the contrast, blurred by 1 % of the shorter side. Elsewhere the order is that of the first term.

        Returns:
            (N, 1, *S), in [0, 2].

        Raises:
            ValueError: there is no contrast, as for masks of channels.
        """
        if self.contrast is None:
            raise ValueError("refined_saliency needs the contrast of positions, which this result does not have")
        return _each(lambda masks, contrast: _refined(masks, self.areas, contrast), self.masks, self.contrast)

    def binary_masks(self) -> Tensor | tuple[Tensor, ...]:
        """Masks of 0 and 1 of exactly each area, rounded to whole positions: each mask's highest values.

        Returns:
            bool, in the masks' shape. Of equal values the first in memory are taken.
        """
        return _each(lambda masks: binary_of(masks, self.areas), self.masks)

    def order_of_entry(self) -> Tensor | tuple[Tensor, ...]:
        """The smallest area whose binary mask keeps each position, 1 where none does: (N, 1, *S) or (N, K)."""
        return _each(lambda masks: _first_area(binary_of(masks, self.areas), self.areas), self.masks)

    def image(self, index: int) -> ExtremalMasks:
        """The result of one image alone, N = 1.

        Raises:
            TypeError, IndexError: the index is not an integer, or there is no such image.
        """
        images = len(self.clean_score)
        check_count("index", index, at_least=None)
        if not -images <= index < images:
            rule = f"below {images}" if index >= 0 else f"at least {-images}"
            raise IndexError(f"index must be {rule}, got {index}")
        one = slice(index, index + 1 or None)
        by_image = ("scores", "complement_scores", "clean_score", "perturbed_score", "values", "threshold")
        parts: dict[str, Any] = {name: getattr(self, name)[one] for name in by_image}
        parts["masks"] = _each(lambda masks: masks[one], self.masks)
        parts["contrast"] = None if self.contrast is None else _each(lambda part: part[one], self.contrast)
        return ExtremalMasks(areas=self.areas, sigma=self.sigma, settings=self.settings, **parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to one .npz file. An interrupted call leaves no file, or the former one.

        Args:
            path: the file; ".npz" is not added.
        """
        arrays = {name: getattr(self, name) for name in _TENSORS}
        for name, parts in (("masks", self.masks), ("contrast", self.contrast)):
            arrays |= {f"{name}_{k}": part for k, part in enumerate(_as_tuple(parts) if parts is not None else ())}
        inputs = len(self.masks) if isinstance(self.masks, tuple) else None
        about = json.dumps({"format": _FORMAT, "inputs": inputs, "settings": self.settings})
        partial = f"{os.fspath(path)}.partial"
        try:
            with open(partial, "wb") as file:
                numbers: Any = {name: tensor.cpu().numpy() for name, tensor in arrays.items()}
                np.savez_compressed(file, about=np.array(about), **numbers)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.remove(partial)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> ExtremalMasks:
        """Read what :meth:`save` wrote. Nothing in the file can run code.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file was not written by :meth:`save`, or in another format.
        """
        with open(path, "rb") as file:
            try:
                about, arrays = _read(file)
                tensors: dict[str, Any] = {k: torch.from_numpy(array).to(device) for k, array in arrays.items()}
                is_tuple, inputs = about["inputs"] is not None, range(about["inputs"] or 1)
                for name in ("masks", "contrast"):
                    parts = tuple(tensors.pop(f"{name}_{k}") for k in inputs if f"{name}_0" in arrays)
                    tensors[name] = parts if is_tuple and parts else parts[0] if parts else None
                settings = about["settings"]
            except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"path must be a file written by save, got {os.fspath(path)!r}: {error}") from error
        return cls(settings=settings, **tensors)

    def _reaching(self) -> Tensor:
        return self.values >= self.threshold[:, None]


def _as_tuple(parts: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return parts if isinstance(parts, tuple) else (parts,)


def _each(function: Callable[..., Tensor], *parts: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """The function of each input's tensors; a tuple where the inputs were one."""
    found = tuple(map(function, *map(_as_tuple, parts)))
    return found if isinstance(parts[0], tuple) else found[0]


_TENSORS = tuple(field.name for field in fields(ExtremalMasks) if field.name not in ("masks", "settings", "contrast"))


def _read(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings in a file, and its arrays."""
    archive = cast(Any, np.load(file, allow_pickle=False))
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it holds one array only")
    with archive:
        about = json.loads(str(archive["about"]))
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']}, this version reads {_FORMAT}")
        inputs = range(about["inputs"] or 1)
        names = [*_TENSORS, *(f"masks_{k}" for k in inputs)]
        if "contrast_0" in archive.files:
            names += [f"contrast_{k}" for k in inputs]
        return about, {name: archive[name] for name in names}


ScoreThreshold = float | Tensor | list[float] | tuple[float, ...] | Callable[[Tensor, Tensor], Tensor] | None


def threshold_of(score_threshold: ScoreThreshold, game: Game, clean: Tensor, perturbed: Tensor) -> Tensor:
    """Phi_0 (N,), in units of the game's value. The default is its value at the mask that keeps everything.

    Raises:
        TypeError, ValueError: the threshold is none of the kinds that the public methods name, or has the wrong length.
    """
    if score_threshold is None:
        return game.value(clean, perturbed)
    given: object = score_threshold
    must = "score_threshold must be"
    if callable(score_threshold):
        given, must = score_threshold(clean, perturbed), "score_threshold(clean, perturbed) must return"
    value = _threshold_tensor(given, len(clean), must).to(clean)
    return value.expand(clean.shape).clone()


def check_threshold(score_threshold: ScoreThreshold, images: int) -> None:
    """Check what can be known of a threshold before there are scores.

    Raises:
        TypeError, ValueError: as :func:`threshold_of`.
    """
    if callable(score_threshold):
        check_callable("score_threshold", score_threshold, "clean", "perturbed")
    elif score_threshold is not None:
        _threshold_tensor(score_threshold, images, "score_threshold must be None, callable as (clean, perturbed), or")


def _threshold_tensor(value: object, images: int, must: str) -> Tensor:
    rule = f"{must} one number, or one for each of {images} images, shape ({images},), none NaN"
    try:
        threshold = torch.as_tensor(value)
        real = not threshold.is_complex() and threshold.dtype != torch.bool
        threshold = torch.as_tensor(value, dtype=torch.float64 if real else None)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{rule}, got {value!r}") from error
    if not real:
        raise TypeError(f"{rule}, got {threshold.dtype}")
    if threshold.dim() and threshold.shape != (images,):
        raise ValueError(f"{rule}, got shape {tuple(threshold.shape)}")
    if bool(threshold.isnan().any()):
        raise ValueError(f"{rule}, got {value!r}")
    return threshold.detach()


def _binariness(masks: Tensor) -> Tensor:
    flat = masks.flatten(2)
    return flat.square().sum(-1) / flat.sum(-1).clamp(min=1e-30)


def _summed(masks: Tensor, blur: float) -> Tensor:
    total = masks.sum(1)
    sigma = blur * min(total.shape[2:], default=0)
    return gaussian_blur(total, sigma, "zeros", normalise=True) if sigma else total


def _refined(masks: Tensor, areas: Tensor, contrast: Tensor) -> Tensor:
    weights = (1 / areas / (1 / areas).sum()).to(masks).view(-1, *[1] * (masks.dim() - 2))
    detail = gaussian_blur(contrast.to(masks), _CONTRAST_BLUR * min(contrast.shape[2:]), "zeros", normalise=True)
    strongest = detail.flatten(1).amax(1).clamp(min=1e-30).view(-1, *[1] * (detail.dim() - 1))
    return (weights * masks).sum(1) + masks.prod(1) * detail / strongest


def binary_of(masks: Tensor, areas: Tensor) -> Tensor:
    """The highest values of masks (N, A, ...), as bool, exactly as many as the areas (A,) or (N, A) ask for."""
    flat = masks.flatten(2)
    kept = (areas * flat.shape[-1]).round().to(torch.int64)
    rank = flat.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (rank < kept[..., None]).view_as(masks)


def _first_area(binary: Tensor, areas: Tensor) -> Tensor:
    held = areas.view(-1, *[1] * (binary.dim() - 2))
    return torch.where(binary, held, torch.ones_like(held)).amin(1)
