"""``captum-extremal channels``: the fewest channels of a layer that are enough for a class (section 5)."""

from __future__ import annotations

import argparse
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from captum_extremal.cli._arguments import ABOUT_SIZES, add_photographs, add_search, natural, positive
from captum_extremal.cli._console import PROGRAM, StopError, say, shortened
from captum_extremal.cli._figures import MASKS_FILE, write_figure
from captum_extremal.cli._inversions import Inverter
from captum_extremal.cli._layers import Layer, chosen_layer, grid_of, print_layers
from captum_extremal.cli._run import Question, Run, View
from captum_extremal.cli._summary import Summary, made_folder
from captum_extremal.cli._weights import untrained_classifier

if TYPE_CHECKING:
    from torch import Tensor

    from captum_extremal.inversion import InvertedFeatures
    from captum_extremal.results import ExtremalMasks

_LIST = "list"
_INVERSION_STEPS = 192  # FeatureInversion's
_INVERSION_SIDE = 128
_TOP_CHANNELS = 10


def add_channels(commands: Any) -> None:
    channels = commands.add_parser(
        "channels",
        help="find the channels of a layer that are enough for a class",
        description="Find the fewest channels of a layer that are enough for a class of photographs, and show what "
        "they have seen. Write the photographs first, then the options.",
        epilog=ABOUT_SIZES,
    )
    add_photographs(channels, least="*")
    add = channels.add_argument
    add(
        "--layer",
        required=True,
        metavar="NAME",
        help=f"as in model.named_modules(), such as layer3.5; {_LIST} prints those that the model has, and what they "
        "return",
    )
    add(
        "--areas",
        type=_count_or_fraction,
        nargs="+",
        metavar="AREA",
        help="increasing numbers of channels, or fractions of them: 1 is one channel, 1.0 all of them "
        "(1 5 10 20 25 35 40 50 60 70 80 90 100 150 200 ... and all)",
    )
    add(
        "--channel-dim",
        type=int,
        metavar="DIM",
        help="which dimension of the layer's output holds the channels, counted with the batch's: -1, the last, for a "
        "transformer's tokens (1, but to be given for outputs of three dimensions)",
    )
    add(
        "--prefix-tokens",
        type=natural,
        default=0,
        metavar="N",
        help="how many of a transformer's tokens come before the image's, 1 for a class token: the heat map is of the "
        "rest (%(default)s)",
    )
    add("--no-inversion", action="store_true", help="do not show what the channels have seen: it may take longest")
    add(
        "--inversion-steps",
        type=positive,
        default=_INVERSION_STEPS,
        metavar="N",
        help="passes of each inversion through the model (%(default)s)",
    )
    add(
        "--inversion-side",
        type=positive,
        default=_INVERSION_SIDE,
        metavar="PX",
        help="the shorter side of the inversions, at most that of the photograph as the model sees it, which they have "
        "where the model refuses others (%(default)s)",
    )
    add_search(channels, "captum-extremal-channels")
    channels.set_defaults(command=_channels)


def _count_or_fraction(text: str) -> int | float:
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of channels or a fraction, got {text!r}") from None


def _channels(options: argparse.Namespace) -> int:
    if options.layer == _LIST:
        print_layers(untrained_classifier(options.model))
        return 0
    if not options.photos:
        raise StopError("PHOTO: at least one photograph must be given, before the options")
    areas = _checked_areas(options.areas)
    question = Question.of(options)
    layer = chosen_layer(question.classifier, options.layer, options.channel_dim, options.prefix_tokens)
    fractions = _fractions_of(areas, layer)
    inverter = None if options.no_inversion else Inverter(options.inversion_steps, options.inversion_side)
    about = {
        "layer": layer.name,
        "channels": layer.channels,
        "areas": list(fractions),
        "inversion_steps": options.inversion_steps if inverter else None,
        "photos": len(options.photos),
    }
    summary = Summary(made_folder(options.out), question.about() | about)
    print(about_layer(layer))
    return ChannelRun(question, summary, layer, fractions, inverter).over(options.photos)


def _checked_areas(areas: list[int | float] | None) -> tuple[int, ...] | tuple[float, ...] | None:
    from captum_extremal.settings import check_areas

    try:
        return None if areas is None else check_areas(areas, counts=True)
    except (TypeError, ValueError) as error:
        raise StopError(f"--areas: {error}") from error


def _fractions_of(areas: tuple[int, ...] | tuple[float, ...] | None, layer: Layer) -> tuple[float, ...]:
    from captum_extremal.masks import ChannelMask
    from captum_extremal.settings import LayerSearchSettings

    family = ChannelMask()
    try:
        return LayerSearchSettings(areas=areas).fractions([family.layout(layer.axes)], family)
    except ValueError as error:
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
class ChannelRun(Run):
    """Masks over the channels of a layer."""

    layer: Layer
    areas: tuple[float, ...]
    inverter: Inverter | None

    everything = "1.0, all channels"

    def search(self, view: View) -> ExtremalMasks:
        from captum_extremal.attr.layer_extremal_perturbation import LayerExtremalPerturbation

        classifier = self.question.classifier
        return LayerExtremalPerturbation(classifier.model, self.layer.module).extremal_masks(
            classifier.normalised(view.repeated()),
            target=view.targets,
            areas=self.areas,
            game=self.question.game,
            channel_dim=self.layer.channel_dim,
            score_threshold=self.question.threshold,
            solver=self.question.solver(),
            show_progress=sys.stderr.isatty(),
        )

    def write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
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
                say(f"{PROGRAM}: {view.names[k]}: no inversion: {pair}")
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

    def files(self) -> dict[str, str]:
        files = {"CLASS.npz": MASKS_FILE}
        if grid_of(self.layer.axes) is None:
            return {"CLASS-curves.png": "the score against the number of channels"} | files
        if self.inverter is not None:
            files = {"CLASS-inversion.png": "what the layer has seen, and what the channels of a* have"} | files
        return {"CLASS-channels.png": "where the channels of a* look, and the score against their number"} | files

    def optimal_text(self, row: dict[str, Any]) -> str:
        return f"{row['optimal_channels']:>4} of {row['channels']}" if row["reached"] else f"none of {row['channels']}"


def _title(view: View, index: int) -> str:
    return shortened(view.names[index], 48)


def _similarity(inverted: InvertedFeatures) -> dict[str, float]:
    return {
        "dot_product": float(inverted.dot_products),
        "cosine_similarity": float(inverted.cosine_similarities),
    }
