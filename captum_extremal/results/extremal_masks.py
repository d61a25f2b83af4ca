"""The result of a search: the masks of every area, their scores, and a* (equation 3)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from captum_extremal._checks import check_count, check_number
from captum_extremal._state import as_device
from captum_extremal.masks.binary import binarised, overlap
from captum_extremal.results import files, maps
from captum_extremal.results.tensors import as_tuple

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False, repr=False)
class ExtremalMasks:
    """Extremal masks of N images at A areas with their scores, and the smallest sufficient area a* of each image.

    A may be 0, where a* alone was searched (``areas="optimal"``). ``len(found)`` is N, ``found[n]`` the result of one
    image, again with N = 1, ``found[first:last]`` that of several, and ``found.to(device)`` the same on a device.

    Attributes:
        masks: (N, A, 1, *S) for positions, (N, A, K) for channels; a tuple where the inputs were a tuple. (N, A, G) for
            groups, one tensor also for tuples: 0 for groups that an example lacks, and at most one of the others is
            kept in part.
        areas: (A,), increasing fractions of the input. The mean of every mask.
        scores: (N, A), the model's score of what each mask keeps.
        complement_scores: (N, A), its score of the input without the mask's region.
        values: (N, A), the game's value at each mask, which was maximised and is compared with the threshold.
        sigma: (A,), the radius in pixels of the smooth masks' disks at each area; NaN for masks without disks, 0 for
            masks that no search made. (A, inputs) where the inputs were a tuple.
        agreement: (N, A, 1, *S) or (N, A, K) in [0, 1], the share of independent searches whose binary mask of the
            area keeps each position; a tuple where the inputs were a tuple. NaN for fewer than two searches.
        agreement_score: (N, A), the mean pairwise IoU of those binary masks; NaN for fewer than two searches.
        clean_score: (N,), the score of the inputs.
        perturbed_score: (N,), the score of the fully perturbed inputs.
        threshold: (N,), Phi_0 of equation 3, in units of the game's value.
        optimal_area: (N,), a* of equation 3, the smallest area found whose value reaches the threshold: 0 where the
            image is vacuous, NaN where no area is enough.
        optimal_masks: (N, 1, *S) or (N, K), the mask m_a* of each image; all zeros where the image is vacuous, the
            largest area's where no area is enough. A tuple where the inputs were a tuple.
        optimal_score: (N,), the model's score of what that mask keeps.
        optimal_complement_score: (N,), its score of the input without the mask's region.
        optimal_value: (N,), the game's value at that mask.
        optimal_sigma: (N,), the radius of its disks, NaN for vacuous images; (N, inputs) where the inputs were a tuple.
        optimal_agreement: (N,), the mean pairwise IoU of the masks of independent searches, each shrunk or grown to a*;
            NaN for fewer than two searches, and for groups.
        vacuous: (N,) bool, whether the game's value at the mask that keeps nothing already reaches the threshold.
        settings: how the masks were made, as plain values: game, perturbation, mask, solver, steps, seconds, versions.
        contrast: (N, 1, *S), how far each position of the inputs is from what hides it and from the mean of its input:
            the geometric mean of both Euclidean distances over the channels. A tuple where the inputs were a tuple.
            None for channels and groups.
        others: the further explanations, where several were sought.
        group_ids: (G,), the ids of the groups, ascending; None where the masks are not over groups.
        minimal: (N,) bool, for groups whether the set of a* is enough and no single group of it can be left out, each
            of which was tried by a forward pass. True for vacuous images. False where some group can be left out, which
            happens where the areas were given; where no area is enough; and for sets of more than 512 groups, which are
            not tried. None where the masks are not over groups.
        removal_losses: (N, G), how far the game's value falls when the mask of a* loses a single group, as the proof
            measured it; NaN for groups that it does not keep, and where nothing was tried. None where the masks are not
            over groups.
    """

    masks: Tensor | tuple[Tensor, ...]
    areas: Tensor
    scores: Tensor
    complement_scores: Tensor
    values: Tensor
    sigma: Tensor
    agreement: Tensor | tuple[Tensor, ...]
    agreement_score: Tensor
    clean_score: Tensor
    perturbed_score: Tensor
    threshold: Tensor
    optimal_area: Tensor
    optimal_masks: Tensor | tuple[Tensor, ...]
    optimal_score: Tensor
    optimal_complement_score: Tensor
    optimal_value: Tensor
    optimal_sigma: Tensor
    optimal_agreement: Tensor
    vacuous: Tensor
    settings: dict[str, Any]
    contrast: Tensor | tuple[Tensor, ...] | None = None
    others: tuple[ExtremalMasks, ...] = ()
    group_ids: Tensor | None = None
    minimal: Tensor | None = None
    removal_losses: Tensor | None = None

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(mask.shape)) for mask in as_tuple(self.masks))
        told = {"areas": self.areas, "optimal_area": self.optimal_area}
        if not bool(self.optimal_agreement.isnan().all()):
            told["optimal_agreement"] = self.optimal_agreement
        if bool(self.vacuous.any()):
            told["vacuous"] = self.vacuous
        if self.minimal is not None:
            told["minimal"] = self.minimal
        if self.others:
            told["distinct"] = self.distinct
        lists = {
            name: [v if isinstance(v, (bool, int)) else round(v, 4) for v in t.tolist()] for name, t in told.items()
        }
        numbers = ", ".join(f"{name}={values}" for name, values in lists.items())
        return f"ExtremalMasks(masks={shapes}, {numbers})"

    @property
    def covers(self) -> str:
        """What the masks cover: "groups", "channels" where every tensor of them is (N, A, K), else "positions"."""
        if self.group_ids is not None:
            return "groups"
        return "channels" if all(masks.dim() == 3 for masks in as_tuple(self.masks)) else "positions"

    @property
    def reached(self) -> Tensor:
        """(N,) bool: whether some area is enough, or the image is vacuous."""
        return self.vacuous | ~self.optimal_area.isnan()

    @property
    def explanations(self) -> tuple[ExtremalMasks, ...]:
        """The k answers, this one first. In the search of each, what the earlier ones' m_a* keep counts nothing."""
        return (self, *self.others)

    @property
    def overlap(self) -> Tensor:
        """(N, A, k, k): the IoU of the binary masks of each two explanations; 1 where both keep nothing.

        Raises:
            ValueError: there are no areas, only a*: see ``optimal_overlap``.
        """
        return overlap(torch.stack([_flat(one.binary_masks()) for one in self.explanations], dim=2))

    @property
    def optimal_overlap(self) -> Tensor:
        """(N, k, k): the IoU of the binary masks of a* of each two explanations; 1 where both keep nothing."""
        return overlap(torch.stack([_flat(one._optimal_binary()) for one in self.explanations], dim=2))[:, 0]

    @property
    def distinct(self) -> Tensor:
        """(N,): how many explanations are answers of their own, 0 where not even the first is enough.

        Such an explanation reaches the threshold at the a* of the first, so its own a* is not larger, and its mask
        overlaps that of every earlier one by an IoU of at most 0.3.
        """
        overlaps, count = self.optimal_overlap, torch.zeros_like(self.optimal_area, dtype=torch.int64)
        for k, one in enumerate(self.explanations):
            apart = (overlaps[:, k, :k] <= _DISTINCT).all(1)
            count += one.reached & apart & (one.optimal_area <= self.optimal_area)
        return count

    def _optimal_binary(self) -> Tensor | tuple[Tensor, ...]:
        """(N, 1, 1, *S) or (N, 1, K) bool: the binary masks of a*, or of their means where no area is enough."""
        if self.group_ids is not None:
            return _each(lambda part: part[:, None] >= 0.5, self.optimal_masks)
        parts = as_tuple(self.optimal_masks)
        means = torch.cat([part.flatten(1) for part in parts], dim=1).mean(1)
        areas = torch.where(self.optimal_area.isnan(), means, self.optimal_area)[:, None]
        return _each(lambda part: binarised(part[:, None], areas), self.optimal_masks)

    @property
    def binariness(self) -> Tensor | tuple[Tensor, ...]:
        """(N, A): sum m^2 / sum m. It is 1 for a binary mask, and the area for a constant one."""
        return _each(maps.binariness, self.masks)

    @property
    def optimal_binariness(self) -> Tensor | tuple[Tensor, ...]:
        """(N,): sum m^2 / sum m of ``optimal_masks``, 0 for an empty one."""
        return _each(lambda part: maps.binariness(part[:, None])[:, 0], self.optimal_masks)

    def optimal_mask(self) -> Tensor | tuple[Tensor, ...]:
        """m_a* of each image, (N, 1, *S) or (N, K): ``optimal_masks``."""
        return self.optimal_masks

    def groups(self) -> list[Tensor]:
        """The ids of the groups that the mask of a* keeps, those first whose loss on removal is largest.

        Where the losses are not known (see :attr:`minimal`), the ids ascend.

        Returns:
            N tensors (n,) int64.

        Raises:
            ValueError: the masks are not over groups.
        """
        if self.group_ids is None or self.removal_losses is None or isinstance(self.optimal_masks, tuple):
            raise ValueError(f"groups needs masks of feature groups, this result has masks of {self.covers}")
        found = []
        for mask, losses in zip(self.optimal_masks, self.removal_losses):
            kept = (mask > 0).nonzero()[:, 0]
            order = losses[kept].nan_to_num(-torch.inf).argsort(descending=True, stable=True)
            found.append(self.group_ids[kept[order]])
        return found

    def saliency(self, blur: float = maps.SALIENCY_BLUR) -> Tensor | tuple[Tensor, ...]:
        """The pointing map of section 4.2: the sum of the masks over the areas, blurred.

        Args:
            blur: standard deviation as a fraction of the image's shorter side; 0 leaves the sum as it is.

        Returns:
            (N, 1, *S), a map whose maximum is where the model looks first; (N, K) for channels and groups, not blurred.

        Raises:
            TypeError, ValueError: ``blur`` is not a number of at least 0.
            ValueError: there are no areas, only a*.
        """
        check_number("blur", blur, at_least=0)
        self._check_areas("saliency")
        return _each(lambda masks: maps.summed(masks, blur), self.masks)

    def refined_saliency(self) -> Tensor | tuple[Tensor, ...]:
        r"""A map that also points within masks: their weighted mean, and the image's contrast where all of them agree.

        Each mask is divided by the square of its area, so that the smallest, which is the most exact, counts most. In a
        plain sum the largest would. Smooth masks have no detail finer than their disks, and are flat in the middle.
        So positions that every mask keeps are ordered by their contrast:

        .. math::

            \frac{\sum_a m_a / a^2}{\sum_a 1 / a^2} + \frac{c}{\max c} \prod_a m_a

        with c the ``contrast`` of the result, blurred by 1 % of the shorter side. Elsewhere the order is that of the
        first term.

        Returns:
            (N, 1, *S), in [0, 2].

        Raises:
            ValueError: there is no contrast, as for masks of channels, or there are no areas, only a*.
        """
        if self.contrast is None:
            raise ValueError(f"refined_saliency needs the contrast of positions, got masks of {self.covers} without it")
        self._check_areas("refined_saliency")
        return _each(lambda masks, contrast: maps.refined(masks, self.areas, contrast), self.masks, self.contrast)

    def binary_masks(self) -> Tensor | tuple[Tensor, ...]:
        """Masks of 0 and 1 of exactly each area, rounded to whole positions: each mask's highest values.

        Returns:
            bool, in the masks' shape. Of equal values the first in memory are taken. Of groups, those are kept of which
            at least half is.

        Raises:
            ValueError: there are no areas, only a*.
        """
        self._check_areas("binary_masks")
        if self.group_ids is not None:
            return _each(lambda masks: masks >= 0.5, self.masks)
        return _each(lambda masks: binarised(masks, self.areas), self.masks)

    def order_of_entry(self) -> Tensor | tuple[Tensor, ...]:
        """The smallest area whose binary mask keeps each position, 1 where none does: (N, 1, *S) or (N, K).

        Raises:
            ValueError: there are no areas, only a*.
        """
        self._check_areas("order_of_entry")
        kept = self.binary_masks()
        return _each(lambda of_input: maps.first_area(of_input, self.areas), kept)

    def __len__(self) -> int:
        return len(self.clean_score)

    def __getitem__(self, index: int | Tensor | slice) -> ExtremalMasks:
        """``found[n]`` is the result of one image alone, with N = 1, and ``found[first:last]`` that of several.

        Raises:
            TypeError, IndexError: the index is no integer and no slice, or there is no such image.
        """
        rows = index
        if not isinstance(index, slice):
            index = _integer(index)
            if not -len(self) <= index < len(self):
                rule = f"below {len(self)}" if index >= 0 else f"at least {-len(self)}"
                raise IndexError(f"index must be {rule}, got {index}")
            rows = slice(index, index + 1 or None)
        of_images = [name for name in _FIELDS if name not in _SHARED]
        return self._changed(lambda part: part[rows], of_images)

    def image(self, index: int | Tensor) -> ExtremalMasks:
        """The result of one image alone, N = 1: ``found[index]``.

        Raises:
            TypeError, IndexError: the index is not an integer, or there is no such image.
        """
        return self[_integer(index)]

    def to(self, device: torch.device | str) -> ExtremalMasks:
        """The same result with all tensors on a device.

        Raises:
            TypeError, ValueError: ``device`` is no device.
            RuntimeError: this machine has no such device.
        """
        place = as_device(device)
        return self._changed(lambda part: part.to(place), _FIELDS)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to one .npz file. An interrupted call leaves no file, or the former one.

        Args:
            path: the file; ".npz" is not added.
        """
        tensors = {
            f"{_prefix(k)}{name}": getattr(one, name) for k, one in enumerate(self.explanations) for name in _FIELDS
        }
        further = {_OTHERS: [one.settings for one in self.others]} if self.others else {}
        files.write(path, tensors, self.settings | further)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> ExtremalMasks:
        """Read what :meth:`save` wrote. Nothing in the file can run code.

        Raises:
            TypeError: ``path`` is no path.
            OSError: the file cannot be opened.
            ValueError: the file was not written by :meth:`save`, or by an earlier version in another format.
        """
        with files.opened(path) as stored:
            settings = stored.settings
            first, *others = (
                cls(
                    settings=of_one,
                    **cast(Any, {name: stored.field(f"{_prefix(k)}{name}", name in _OPTIONAL) for name in _FIELDS}),
                )
                for k, of_one in enumerate([settings, *settings.pop(_OTHERS, [])])
            )
        found = replace(first, others=tuple(others))
        return found.to(device)

    def _changed(self, change: Callable[[Tensor], Tensor], names: Iterable[str]) -> ExtremalMasks:
        """The result with its tensors of these names changed."""
        parts: dict[str, Any] = {name: getattr(self, name) for name in names}
        changed = {name: part if part is None else _each(change, part) for name, part in parts.items()}
        others = tuple(other._changed(change, names) for other in self.others)
        return replace(self, **cast(Any, changed), others=others, settings=deepcopy(self.settings))

    def to_html(
        self,
        path: str | os.PathLike[str],
        images: Tensor | tuple[Tensor | None, ...] | None = None,
        *,
        perturbed: Tensor | tuple[Tensor | None, ...] | None = None,
        names: Sequence[str] | None = None,
        others: Sequence[ExtremalMasks] | Mapping[str, ExtremalMasks] = (),
        activations: Tensor | None = None,
        inversions: Mapping[str, Tensor] | None = None,
        title: str | None = None,
    ) -> None:
        """Write the explorer: one HTML file with a slider for the area, which needs no network.

        It shows each mask over its picture, the scores against the area with Phi_0 and a*, the order in which the
        pixels enter, and how far independent searches agree. Between two areas the nearest measured mask is shown, and
        the page says so. An interrupted call leaves no file, or the former one.

        Args:
            path: the file; ".html" is not added.
            images: (N, 3, H, W) or (N, 1, H, W) in [0, 1], without the model's normalisation, of the masks' size, which
                those of a layer need not have. A tuple where the inputs were one. None for masks without pictures.
            perturbed: (N, A, 3, H, W) in [0, 1], what the model saw under each mask:
                :func:`~captum_extremal.perturbed_inputs`, without the model's normalisation. (N, A + 1, 3, H, W) with
                that of a* last. A tuple where the inputs were one.
            names: N names of the images or of their targets; any text.
            others: results of other targets or layers of the same images, as a list or with names.
            activations: (N, K, h, w), the layer's, for masks of its channels: their maps, and the heat maps of equation
                11, are shown.
            inversions: names, and pictures (N, 3, H', W') in [0, 1] of equation 12, for masks of channels.
            title: the page's; any text.

        Raises:
            TypeError, ValueError: an argument is bad. No file has been written then.
        """
        from captum_extremal.results import html_file

        html_file.write(
            self,
            path,
            images,
            perturbed=perturbed,
            names=names,
            others=others,
            activations=activations,
            inversions=inversions,
            title=title,
        )

    def _repr_html_(self) -> str:
        from captum_extremal.results import notebook

        return notebook.as_html(self)

    def _check_areas(self, what: str) -> None:
        if not len(self.areas):
            raise ValueError(f"{what} needs masks of areas, this result has a* alone: search with areas=[...]")


def _flat(parts: Tensor | tuple[Tensor, ...]) -> Tensor:
    """(N, A, P), the values of all inputs together."""
    return torch.cat([part.flatten(2) for part in as_tuple(parts)], dim=2)


def _prefix(k: int) -> str:
    """Of the names in a file of what belongs to the k-th explanation."""
    return f"explanation_{k}_" if k else ""


def _each(function: Callable[..., Tensor], *parts: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """The function of each input's tensors; a tuple where the inputs were one."""
    found = tuple(map(function, *map(as_tuple, parts)))
    return found if isinstance(parts[0], tuple) else found[0]


_FIELDS = tuple(field.name for field in fields(ExtremalMasks) if field.name not in ("settings", "others"))
_OPTIONAL = tuple(field.name for field in fields(ExtremalMasks) if field.default is None)
_SHARED = ("areas", "sigma", "group_ids")  # by all images
_OTHERS = "explanations"  # the name in a file's settings of those of the further explanations
_DISTINCT = 0.3  # the largest IoU of answers that are not the same


def _integer(index: int | Tensor) -> int:
    """An index, which may be Python's, NumPy's or PyTorch's.

    Raises:
        TypeError: it is no integer.
    """
    if isinstance(index, Tensor) and index.dim() == 0 and index.dtype in _INTEGERS:
        return int(index)
    check_count("index", index, at_least=None)
    return int(index)
