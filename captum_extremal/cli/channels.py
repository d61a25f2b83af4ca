"""``captum-extremal channels``: the fewest channels of a layer that are enough for a class (section 5)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from captum_extremal.cli import options
from captum_extremal.cli.console import StopError, say, shortened
from captum_extremal.cli.inversions import Inverter
from captum_extremal.cli.layers import Layer, chosen_layer, grid_of, print_layers
from captum_extremal.cli.options import option
from captum_extremal.cli.output import MASKS_FILE, Summary, made_folder, write_figure
from captum_extremal.cli.photo_run import PhotoRun, Question, View
from captum_extremal.cli.weights import DEFAULT, loaded_classifier, untrained_classifier

if TYPE_CHECKING:
    from torch import Tensor

    from captum_extremal.inversion import InvertedFeatures
    from captum_extremal.results import ExtremalMasks

_LIST = "list"
_TOP_CHANNELS = 10


def _count_or_fraction(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else options.number(text)


_COUNTS = options.comma_separated(_count_or_fraction)
_ABOUT_LAYER = f"As in model.named_modules(), such as layer3.5; {_LIST} prints the model's layers and their outputs."
_ABOUT_AREAS = (
    "Increasing numbers of channels, or fractions of them: 1 is one channel, 1.0 all of them (the library's own)."
)
_ABOUT_CHANNEL_DIM = (
    "The dimension of the layer's output that holds the channels, counted with the batch's: -1, the last, for a "
    "transformer's tokens (1, but required for outputs of three dimensions)."
)
_ABOUT_PREFIX = "How many of a transformer's tokens, such as a class token, come before the image's."
_ABOUT_NO_INVERSION = "Do not show what the channels have seen; it may take longest."
_ABOUT_INVERSION_STEPS = "Passes of each inversion through the model (the library's own)."
_ABOUT_INVERSION_SIDE = (
    "The shorter side of the inversions, at most that of the photograph as the model sees it, which is used if the "
    "model refuses other sizes."
)


def channels(
    layer: Annotated[str, option(_ABOUT_LAYER, "NAME")],
    photos: Annotated[list[str] | None, options.PHOTOS] = None,
    model: options.Model = "resnet50",
    weights: options.Weights = DEFAULT,
    classes: options.Classes = None,
    target: options.Target = None,
    areas: Annotated[list[float] | None, option(_ABOUT_AREAS, "AREA,...", several=_COUNTS)] = None,
    channel_dim: Annotated[int | None, option(_ABOUT_CHANNEL_DIM, "DIM")] = None,
    prefix_tokens: Annotated[int, option(_ABOUT_PREFIX, "N", min=0)] = 0,
    no_inversion: Annotated[bool, option(_ABOUT_NO_INVERSION, name="--no-inversion")] = False,
    inversion_steps: Annotated[int | None, option(_ABOUT_INVERSION_STEPS, "N", min=1)] = None,
    inversion_side: Annotated[int, option(_ABOUT_INVERSION_SIDE, "PX", min=1)] = 128,
    game: options.Game = None,
    score_fraction: options.ScoreFraction = 1.0,
    steps: options.Steps = None,
    device: options.Device = "auto",
    out: options.Out = "captum-extremal-channels",
) -> int:
    """Find the fewest channels of a layer that are enough for a class.

    The figures show where the channels look and what they have seen.
    """
    if layer == _LIST:
        print_layers(untrained_classifier(model))
        return 0
    if not photos:
        raise StopError("PHOTO: at least one photograph must be given")
    from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation
    from captum_extremal.inversion import FeatureInversion

    classifier = loaded_classifier(model, weights, classes, device)
    search = LayerExtremalPerturbation.extremal_masks
    question = Question.asked(search, classifier, target, game, score_fraction, steps)
    chosen = chosen_layer(classifier, layer, channel_dim, prefix_tokens)
    fractions = _fractions_of(areas, chosen)
    passes = options.with_defaults(FeatureInversion.invert, steps=inversion_steps)["steps"]
    inverter = None if no_inversion else Inverter(passes, inversion_side)
    about = {
        "layer": chosen.name,
        "channels": chosen.channels,
        "areas": list(fractions),
        "inversion_steps": inverter and inverter.steps,
        "photos": len(photos),
    }
    summary = Summary(made_folder(out), question.about() | about)
    print(about_layer(chosen))
    return ChannelRun(question, summary, chosen, fractions, inverter).over(photos)


def _fractions_of(areas: list[float] | None, layer: Layer) -> tuple[float, ...]:
    """The areas as fractions of the layer's channels; None for the library's own."""
    from captum_extremal.masks import ChannelMask
    from captum_extremal.settings import LayerSearchSettings

    family = ChannelMask()
    try:
        return LayerSearchSettings(areas=areas).fractions([family.layout(layer.axes)], family)
    except (TypeError, ValueError) as error:
        raise StopError(f"--areas: {error}") from error


def about_layer(layer: Layer) -> str:
    """How many channels it has, and over which positions they lie."""
    channels, grid = f"{layer.name}: {layer.channels} channels", grid_of(layer.axes)
    if grid is not None:
        return f"{channels} of {grid[0]} x {grid[1]} positions"
    if math.prod(layer.axes.grid) == 1:
        return f"{channels}, without positions: there will be no heat map"
    hint = "" if layer.axes.prefix else "; --prefix-tokens 1 leaves out a class token"
    positions = " x ".join(map(str, layer.axes.grid))
    return f"{channels} of {positions} positions, no square: there will be no heat map{hint}"


@dataclass
class ChannelRun(PhotoRun):
    """Masks over the channels of a layer."""

    layer: Layer
    areas: tuple[float, ...]
    inverter: Inverter | None

    everything = "1.0, all channels"

    def _search(self, view: View) -> ExtremalMasks:
        from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation

        method = LayerExtremalPerturbation(self.question.classifier.model, self.layer.module)
        how: dict[str, Any] = {"areas": self.areas, "channel_dim": self.layer.channel_dim}
        return method.extremal_masks(**self.question.arguments(view), **how)

    def _write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        masks = cast("Tensor", found.optimal_mask())
        heat_maps = self.layer.heat_maps(self.question.classifier.normalised(view.picture), masks)
        rows: list[dict[str, Any]] = [
            self._numbers(found.image(k)) | {"files": self._write_found(found, heat_maps, view, k, folder)}
            for k in range(len(view.targets))
        ]
        if self.inverter is not None and heat_maps is not None:
            written = self._write_inversions(self.inverter, heat_maps, masks, view, folder)
            for row, inversion in zip(rows, written):
                row["inversion"] = inversion
                if "file" in inversion:
                    row["files"]["inversion"] = inversion.pop("file")
        return rows

    def _write_found(
        self, found: ExtremalMasks, heat_maps: Tensor | None, view: View, index: int, folder: Path
    ) -> dict[str, str]:
        """The masks and the figure of one target: kind -> file name within the folder."""
        from captum_extremal.visualization import show_channels, show_curves

        base, title = view.base(index), _title(view, index)
        found.image(index).save(folder / f"{base}.npz")
        if heat_maps is None:
            figure = show_curves(found, index, title=title)
            return {"curves": write_figure(figure, folder / f"{base}-curves.png"), "masks": f"{base}.npz"}
        figure = show_channels(found, heat_maps, view.repeated(), index, title=title)
        return {"channels": write_figure(figure, folder / f"{base}-channels.png"), "masks": f"{base}.npz"}

    def _write_inversions(
        self, inverter: Inverter, heat_maps: Tensor, masks: Tensor, view: View, folder: Path
    ) -> list[dict[str, Any]]:
        """Figure 9 of each target: its file and its numbers, or why there is none."""
        from captum_extremal.visualization import show_inversions

        written: list[dict[str, Any]] = []
        pairs = inverter.pairs(self.question.classifier, self.layer, view.picture, masks)
        for k, pair in enumerate(pairs):
            if isinstance(pair, str):
                say(f"{view.names[k]}: no inversion: {pair}")
                written.append({"error": pair})
                continue
            whole, masked = pair
            figure = show_inversions(
                view.picture, heat_maps[k : k + 1], whole.images, masked.images, title=_title(view, k)
            )
            file = write_figure(figure, folder / f"{view.base(k)}-inversion.png")
            written.append({"file": file, "whole": _similarity(whole), "masked": _similarity(masked)})
        return written

    def _numbers(self, one: ExtremalMasks) -> dict[str, Any]:
        """What a row says of the channels: how many are enough, and the first of them."""
        channels = self.layer.channels
        counts = [round(float(area) * channels) for area in one.areas]
        best = cast("Tensor", one.optimal_mask())[0].topk(min(_TOP_CHANNELS, counts[int(one.optimal_index)]))
        return {
            "channels": channels,
            "optimal_channels": counts[int(one.optimal_index)] if bool(one.reached) else None,
            "channel_counts": counts,
            "top_channels": [
                {"channel": channel, "mask": round(value, 6)}
                for channel, value in zip(best.indices.tolist(), best.values.tolist())
            ],
            "runs": one.settings["runs"],
        }

    def _files(self) -> dict[str, str]:
        files = {"CLASS.npz": MASKS_FILE}
        if grid_of(self.layer.axes) is None:
            return {"CLASS-curves.png": "the score against the number of channels"} | files
        if self.inverter is not None:
            files = {"CLASS-inversion.png": "what the layer has seen, and what the channels of a* have"} | files
        return {"CLASS-channels.png": "where the channels of a* look, and the score against their number"} | files

    def _optimal_text(self, row: dict[str, Any]) -> str:
        return f"{row['optimal_channels']} of {row['channels']}" if row["reached"] else f"none of {row['channels']}"


def _title(view: View, index: int) -> str:
    return shortened(view.names[index], 48)


def _similarity(inverted: InvertedFeatures) -> dict[str, float]:
    return {
        "dot_product": float(inverted.dot_products),
        "cosine_similarity": float(inverted.cosine_similarities),
    }
