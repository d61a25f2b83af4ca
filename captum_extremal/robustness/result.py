"""The values of masks under several ways of hiding, in per cent and as a table."""

from dataclasses import dataclass
from math import isnan

import pandas as pd
import torch
from torch import Tensor

_SHOWN = 4  # images of which a text shows the numbers
_LEAST_SHARE = 1e-3  # of an image's largest value: a smaller clean score makes no sense as 100 %


@dataclass(frozen=True, eq=False, repr=False)
class Robustness:
    """The value of masks of N images under P ways of hiding what they do not keep.

    Attributes:
        names: (P,), of the ways of hiding: "own", the search's; "fade", to the baseline; "half blur", "blur" and
            "double blur", of half, once and twice the default standard deviation; "others", the content of other
            inputs; "noise", Gaussian noise of the input's own mean and standard deviation in each channel.
        areas: (N, A + 1), of the masks; the last is a*: 0 where nothing is needed, NaN where it is not reached. A is 0
            for masks that were found with ``areas="optimal"``.
        soft: (N, A + 1, P), the game's value at each mask; in the last row at the mask of a*, or the largest area's
            where a* is not reached.
        binary: (N, A + 1, P), the same at the masks' highest values set to 1, exactly as many as the area asks for.
        all_hidden: (N, P), the game's value where the whole input is hidden: at the mask that keeps nothing, or for a
            game without a weight for what is kept, at the mask that removes everything. A mask that keeps the score
            says little where this is as good. A mask that removes it can hardly do better.
        clean_score: (N,), the score of the inputs.
    """

    names: tuple[str, ...]
    areas: Tensor
    soft: Tensor
    binary: Tensor
    all_hidden: Tensor
    clean_score: Tensor

    def __repr__(self) -> str:
        images, areas = self.areas.shape
        head = f"Robustness (N = {images}, A = {areas - 1}), the game's values at a*:"
        lines: dict[str, list[str]] = {}
        for n, area in enumerate(self.areas[:_SHOWN, -1].tolist()):
            percent = not bool(self.soft_percent[n].isnan().any())
            sign = "_percent" if percent else ""
            soft, binary, hidden = (getattr(self, f"{name}{sign}")[n] for name in ("soft", "binary", "all_hidden"))
            unit = "% of the clean score" if percent else f"clean score {float(self.clean_score[n]):.3g}"
            parts = {f"masks, {unit}": soft[-1], "binary forms": binary[-1], "all hidden": hidden}
            named = "a* not reached" if isnan(area) else f"a* {area:.3g}"
            for k, (what, values) in enumerate(parts.items()):
                name = f"image {n}, {named}: {what}" if k == 0 else f"{what} of image {n}"
                lines[name] = [f"{value:.0f}" if percent else f"{value:.3g}" for value in values.tolist()]
        table = pd.DataFrame.from_dict(lines, orient="index", columns=list(self.names)).to_string()
        more = [f"... and {images - _SHOWN} more images"] if images > _SHOWN else []
        return "\n".join([head, table, *more])

    @property
    def soft_percent(self) -> Tensor:
        """``soft`` in per cent of the clean score.

        Masks that keep the score have about 100 %. Of game="delete", whose value is minus the score of what remains,
        -100 % is the worst: all of the score is left. At 0 % nothing is left, and above 0 the score is negative.

        It is NaN for an image whose clean score is not above 0, or a thousand times smaller than a value of its masks.
        """
        return self._percent(self.soft)

    @property
    def binary_percent(self) -> Tensor:
        """``binary`` in per cent of the clean score; NaN as in :attr:`soft_percent`."""
        return self._percent(self.binary)

    @property
    def all_hidden_percent(self) -> Tensor:
        """``all_hidden`` in per cent of the clean score; NaN as in :attr:`soft_percent`."""
        return self._percent(self.all_hidden)

    def to_frame(self) -> pd.DataFrame:
        """A table with a row for each image, mask and way of hiding.

        Its columns are ``image``, ``mask`` (the area, or "a*"), ``area``, ``hiding``, ``soft``, ``binary``,
        ``soft_percent`` and ``binary_percent``. ``hiding`` keeps the order of ``names``, so that a pivot does too.

        Examples::

            >>> extremal = ExtremalPerturbation(model)
            >>> found = extremal.extremal_masks(x, target=207)
            >>> frame = extremal.robustness(found, x, target=207).to_frame()
            >>> frame[frame["image"] == 0].pivot(index="hiding", columns="mask", values="soft_percent").round()
        """
        images, ways = self.soft.shape[0], len(self.names)
        labels = [*(f"{area:g}" for area in self.areas[0, :-1].tolist()), "a*"]
        index = pd.MultiIndex.from_product([range(images), labels, self.names], names=["image", "mask", "hiding"])
        columns = {name: getattr(self, name) for name in ("soft", "binary", "soft_percent", "binary_percent")}
        columns = {"area": self.areas.unsqueeze(2).expand(-1, -1, ways)} | columns
        frame = pd.DataFrame({name: values.flatten().tolist() for name, values in columns.items()}, index).reset_index()
        frame["mask"] = pd.Categorical(frame["mask"], labels)
        frame["hiding"] = pd.Categorical(frame["hiding"], self.names)
        return frame.reindex(columns=["image", "mask", "area", "hiding", *list(columns)[1:]])

    def _percent(self, values: Tensor) -> Tensor:
        largest = torch.maximum(self.soft.abs(), self.binary.abs()).flatten(1).amax(1)
        whole = self.clean_score.where(self.clean_score > _LEAST_SHARE * largest, torch.nan)
        return 100 * values / whole.view(-1, *[1] * (values.dim() - 1))
