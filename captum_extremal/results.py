"""What a search found: the masks of every area, what they do to the score, and how they were made."""

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
_CONTRAST_BLUR = 0.01  # of the shorter side: so that no single noisy pixel is the maximum
_FORMAT = 1


@dataclass(frozen=True, eq=False, repr=False)
class ExtremalMasks:
    """Extremal masks of N images at A areas, with their scores.

    Attributes:
        masks: (N, A, 1, *S) for positions, (N, A, K) for channels; a tuple where the inputs were a tuple.
        areas: (A,), increasing fractions of the input. The mean of every mask.
        scores: (N, A), the model's score of what each mask keeps.
        complement_scores: (N, A), its score of what is left when the mask's region is removed.
        clean_score: (N,), the score of the inputs.
        perturbed_score: (N,), the score of the fully perturbed inputs.
        values: (N, A), the game's value at each mask: what was maximised, and what is compared with the threshold.
        threshold: (N,), Phi_0 of equation 3, in units of the game's value.
        sigma: (A,), the radius in pixels of the smooth masks' disks at each area (of each input: (A, inputs), where
            the inputs were a tuple).
        settings: how the masks were made: game, perturbation, mask, solver, steps, seconds, versions; plain values.
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
        masks = self.masks if isinstance(self.masks, tuple) else (self.masks,)
        shapes = ", ".join(str(tuple(mask.shape)) for mask in masks)
        areas, optimal = ([round(value, 4) for value in t.tolist()] for t in (self.areas, self.optimal_area))
        return f"ExtremalMasks(masks={shapes}, areas={areas}, optimal_area={optimal})"

    @property
    def covers(self) -> str:
        """What the masks cover: "channels" where every tensor of them is (N, A, K), else "positions"."""
        masks = self.masks if isinstance(self.masks, tuple) else (self.masks,)
        return "channels" if all(one.dim() == 3 for one in masks) else "positions"

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
        """(N, A): sum m^2 / sum m, the mean value of a mask where its mass is: 1 if binary, the area if flat."""
        return self._each(_binariness)

    def optimal_mask(self) -> Tensor | tuple[Tensor, ...]:
        """m_a* of each image, (N, 1, *S) or (N, K): the largest area's where the threshold is not reached."""
        rows = torch.arange(len(self.clean_score), device=self.areas.device)
        return self._each(lambda masks: masks[rows, self.optimal_index])

    def saliency(self, blur: float = _SALIENCY_BLUR) -> Tensor | tuple[Tensor, ...]:
        """The pointing map of section 4.2: the sum of the masks over the areas, blurred.

        Args:
            blur: standard deviation as a fraction of the image's shorter side; 0 leaves the sum as it is.

        Returns:
            (N, 1, *S), a map whose maximum is where the model looks first; (N, K) for channels, not blurred.

        Raises:
            TypeError, ValueError: ``blur`` is no number of at least 0.
        """
        check_number("blur", blur, at_least=0)
        return self._each(lambda masks: _summed(masks, blur))

    def refined_saliency(self) -> Tensor | tuple[Tensor, ...]:
        r"""Where the masks' mass lies, and the image's own detail where all of them agree: points within a mask.

        Each mask, divided by its area, says with the same total where the output comes from; a plain sum would leave
        most of the word to the largest, which is the least exact. Smooth masks also have no detail finer than their
        disks, and are flat in the middle of what they keep. Where the perturbation changes nothing, a mask can be
        anything, so positions that every mask keeps are told apart by what the perturbation would take from them:

        .. math::

            \frac{\sum_a m_a / a}{\sum_a 1 / a} + \frac{c}{\max c} \prod_a m_a

        with c the contrast, blurred by 1 % of the shorter side. Elsewhere the order is that of the first term.

        Returns:
            (N, 1, *S), in [0, 2].

        Raises:
            ValueError: there is no contrast: these are masks of channels, or a file of an earlier version.
        """
        if self.contrast is None:
            raise ValueError("refined_saliency needs the contrast of positions, which this result does not have")
        if isinstance(self.masks, tuple):
            pairs = zip(self.masks, self.contrast)
            return tuple(_refined(masks, self.areas, contrast) for masks, contrast in pairs)
        return _refined(self.masks, self.areas, cast(Tensor, self.contrast))

    def binary_masks(self) -> Tensor | tuple[Tensor, ...]:
        """Masks of 0 and 1 of exactly each area, rounded to whole positions: each mask's highest values.

        Returns:
            bool, of the masks' shape. Of equal values the ones that come first in memory are taken.
        """
        return self._each(lambda masks: _binary(masks, self.areas))

    def order_of_entry(self) -> Tensor | tuple[Tensor, ...]:
        """For each position the smallest area whose binary mask holds it, 1 where none does: (N, 1, *S) or (N, K)."""
        return self._each(lambda masks: _first_area(_binary(masks, self.areas), self.areas))

    def image(self, index: int) -> ExtremalMasks:
        """The result of one image alone, N = 1.

        Raises:
            TypeError, IndexError: the index is no integer, or there is no such image.
        """
        images = len(self.clean_score)
        check_count("index", index, at_least=None)
        if not -images <= index < images:
            rule = f"below {images}" if index >= 0 else f"at least {-images}"
            raise IndexError(f"index must be {rule}, got {index}")
        one = slice(index, index + 1 or None)
        by_image = ("scores", "complement_scores", "clean_score", "perturbed_score", "values", "threshold")
        parts: dict[str, Any] = {name: getattr(self, name)[one] for name in by_image}
        parts["masks"] = self._each(lambda masks: masks[one])
        if self.contrast is not None:
            several = isinstance(self.contrast, tuple)
            parts["contrast"] = tuple(part[one] for part in self.contrast) if several else self.contrast[one]
        return ExtremalMasks(areas=self.areas, sigma=self.sigma, settings=self.settings, **parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file, whole or not at all.

        Args:
            path: the file; ".npz" is not added.
        """
        masks = self.masks if isinstance(self.masks, tuple) else (self.masks,)
        arrays = {name: getattr(self, name).cpu().numpy() for name in _TENSORS}
        arrays |= {f"masks_{k}": mask.cpu().numpy() for k, mask in enumerate(masks)}
        if self.contrast is not None:
            contrast = self.contrast if isinstance(self.contrast, tuple) else (self.contrast,)
            arrays |= {f"contrast_{k}": part.cpu().numpy() for k, part in enumerate(contrast)}
        about = {
            "format": _FORMAT,
            "inputs": len(masks) if isinstance(self.masks, tuple) else None,
            "settings": self.settings,
        }
        partial = f"{os.fspath(path)}.partial"
        try:
            with open(partial, "wb") as file:
                np.savez_compressed(file, about=np.array(json.dumps(about)), **cast(Any, arrays))
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
            ValueError: the file was not written by :meth:`save`, or by a later version of it.
        """
        with open(path, "rb") as file:
            try:
                about, arrays = _read(file)
                tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
                inputs = range(about["inputs"] or 1)
                masks = tuple(tensors.pop(f"masks_{k}") for k in inputs)
                contrast = tuple(tensors.pop(f"contrast_{k}") for k in inputs if "contrast_0" in arrays)
                is_tuple, settings = about["inputs"] is not None, about["settings"]
            except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"path must be a file written by save, got {os.fspath(path)!r}: {error}") from error
        return cls(
            masks=masks if is_tuple else masks[0],
            settings=settings,
            contrast=(contrast if is_tuple else contrast[0]) if contrast else None,
            **tensors,
        )

    def _reaching(self) -> Tensor:
        return self.values >= self.threshold[:, None]

    def _each(self, of_masks: Callable[[Tensor], Tensor]) -> Tensor | tuple[Tensor, ...]:
        if isinstance(self.masks, tuple):
            return tuple(of_masks(masks) for masks in self.masks)
        return of_masks(self.masks)


_TENSORS = tuple(field.name for field in fields(ExtremalMasks) if field.name not in ("masks", "settings", "contrast"))


def _read(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says of itself, and the arrays in it."""
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
    """Phi_0 (N,), in units of the game's value: by default that of the mask that keeps everything.

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
    """All that can be said of a threshold before there are scores.

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


def _binary(masks: Tensor, areas: Tensor) -> Tensor:
    flat = masks.flatten(2)
    kept = (areas * flat.shape[-1]).round().to(torch.int64)
    rank = flat.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (rank < kept[:, None]).view_as(masks)


def _first_area(binary: Tensor, areas: Tensor) -> Tensor:
    held = areas.view(-1, *[1] * (binary.dim() - 2))
    return torch.where(binary, held, torch.ones_like(held)).amin(1)
