"""``captum-extremal channels``: the fewest channels of a layer that are enough for a class (section 5).

Shapes: T targets of one photograph, K channels, h rows and w columns of a layer's positions.
"""

import inspect
import math
import sys
from collections import Counter
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision.transforms import functional

from captum_extremal import visualization
from captum_extremal.attr import LayerExtremalPerturbation
from captum_extremal.cli.classifier import Classifier, loaded_classifier
from captum_extremal.cli.console import WRONG_ARGUMENT, StopError, one_line, print_table, say, shortened, stopping
from captum_extremal.cli.networks import Look
from captum_extremal.cli.options import LIST
from captum_extremal.cli.output import EXPLORER, MASKS_FILE, write_figure
from captum_extremal.cli.photo_run import PhotoRun, View
from captum_extremal.hooks import on_every_output
from captum_extremal.inversion import FeatureInversion
from captum_extremal.layers import LayerTail
from captum_extremal.masks import Axes, ChannelMask, read_axes
from captum_extremal.results import ExtremalMasks
from captum_extremal.settings import LayerSearchSettings

_TOP_CHANNELS = 10
_EXPLORER_FILE = "a page to explore the channels with, in any browser and without a network"
_INVERSION_STEPS = inspect.signature(FeatureInversion.invert).parameters["steps"].default


class Layer(NamedTuple):
    """A layer whose channels are to be masked, and the axes of its activation of an image of the weights' own size."""

    name: str
    model: nn.Module
    module: nn.Module
    axes: Axes

    def __str__(self) -> str:
        channels, grid = f"{self.name}: {self.axes.channels} channels", self.axes.grid
        if _rows_and_columns(self.axes):
            return "{} of {} x {} positions".format(channels, *_rows_and_columns(self.axes))
        if math.prod(grid) == 1:
            return f"{channels}, without positions: there will be no heat map"
        hint = "" if self.axes.prefix else "; --prefix-tokens 1 leaves out a class token"
        return f"{channels} of {' x '.join(map(str, grid))} positions, no square: there will be no heat map{hint}"

    def maps(self, x: Tensor) -> Tensor | None:
        """The channels' maps (K, h, w) of an image (1, 3, H, W), None where the positions are no map of it."""
        (activation,) = LayerTail(self.model, self.module, (x,)).activation
        axes = read_axes(activation, self.axes.channel + 1, self.axes.prefix)
        grid = _rows_and_columns(axes)
        if not grid:
            return None
        return activation[0].movedim(axes.channel, 0).flatten(1)[:, axes.prefix :].reshape(-1, *grid)


def heat_maps(maps: Tensor, masks: Tensor) -> Tensor:
    """Equation 11, sum_k m_k Phi_l^k(x), of the channels' maps (K, h, w) under masks (T, K): (T, 1, h, w)."""
    return torch.einsum("tk,khw->thw", masks.to(maps), maps)[:, None]


def _rows_and_columns(axes: Axes) -> tuple[int, ...]:
    """Those of a layer's positions, () if they are no map of the image; tokens must fill a square."""
    positions, dimensions = math.prod(axes.grid), len(axes.grid)
    side = math.isqrt(positions)
    is_map = positions > 1 and (dimensions == 2 or (dimensions == 1 and side**2 == positions))
    return (axes.grid if dimensions == 2 else (side, side)) if is_map else ()


def chosen_layer(classifier: Classifier, name: str, channel_dim: int | None, prefix_tokens: int) -> Layer:
    """The layer of this name; raises StopError if there is none, or its channels cannot be masked."""
    outputs, modules = _outputs_of(classifier), dict(classifier.model.named_modules())
    if not name or name not in modules:
        close = get_close_matches(name, [known for known in outputs if isinstance(outputs[known], Tensor)], 4)
        near = f"; near it: {', '.join(close)}" if close else ""
        raise StopError(f"--layer: {classifier.name} has no layer named {name!r}{near}; --layer list names them all")
    if name not in outputs:
        raise StopError(f"--layer: {classifier.name} does not call {name}")
    output = outputs[name]
    if isinstance(output, str):
        raise StopError(f"--layer: {name} cannot be masked: {output}; choose another, --layer list has them")
    with stopping("--channel-dim", ValueError, status=WRONG_ARGUMENT):
        positions = read_axes(output, channel_dim).grid
    if prefix_tokens and not (len(positions) == 1 and positions[0] > prefix_tokens):
        why = f"{name} has no {prefix_tokens} tokens before those of the image, its output is {_as_text(output)}"
        raise StopError(f"--prefix-tokens: {why}")
    return Layer(name, classifier.model, modules[name], read_axes(output, channel_dim, prefix_tokens))


def _outputs_of(classifier: Classifier) -> dict[str, Tensor | str]:
    """By layer that a forward calls: its output (1, ...) for one image, without values, or why it cannot be masked."""
    modules = [(name, module) for name, module in classifier.model.named_modules() if name]
    calls, found = Counter[str](), dict[str, Tensor | str]()

    def see(name: str, output: Any) -> None:
        calls[name] += 1
        found[name] = _read_output(output) if calls[name] == 1 else f"called {calls[name]} times"

    sides = tuple(classifier.preset.crop_size)  # which every classifier takes
    grey = torch.full((1, 3, sides[0], sides[-1]), 0.5, device=classifier.device)
    stops = stopping(f"--model: {classifier.name} cannot run", RuntimeError)
    with stops, on_every_output(modules, see), torch.no_grad():
        classifier.model(classifier.normalised(grey))
    return {name: found[name] for name, _ in modules if name in found}


def _read_output(output: Any) -> Tensor | str:
    parts = [part for part in (output if type(output) in (tuple, list) else [output]) if part is not None]
    if len(parts) > 1:
        return f"{len(parts)} parts"
    if not parts or not isinstance(parts[0], Tensor) or parts[0].dim() < 2 or not parts[0].is_floating_point():
        return "no tensor of channels"
    return torch.empty_like(parts[0], device="meta")


def _as_text(output: Tensor | str) -> str:
    """The shape of a layer's output for one image, or why it cannot be masked."""
    return output if isinstance(output, str) else " x ".join(map(str, output.shape[1:]))


def run(given: Any) -> int:
    """Mask the channels of the layer for the photographs, or list the layers; the exit status."""
    if given.layer == LIST:
        classifier = loaded_classifier(given.model, None, look=Look.of(given))
        modules = dict(classifier.model.named_modules())
        rows = [(name, type(modules[name]).__name__, _as_text(out)) for name, out in _outputs_of(classifier).items()]
        print_table(rows, ("layer", "kind", "output"))
        return 0
    classifier = loaded_classifier(given.model, given.weights, given.classes, given.device, look=Look.of(given))
    layer = chosen_layer(classifier, given.layer, given.channel_dim, given.prefix_tokens)
    print(layer)
    return ChannelRun(given, classifier, layer).run()


class ChannelRun(PhotoRun):
    """Masks over the channels of a layer."""

    everything = "1.0, all channels"

    def __init__(self, given: Any, classifier: Classifier, layer: Layer) -> None:
        self.layer, self.side, self.html, family = layer, given.inversion_side, given.html, ChannelMask()
        with stopping("--areas", TypeError, ValueError, status=WRONG_ARGUMENT):
            swept = LayerSearchSettings(areas=given.areas).sought([family.layout(layer.axes)], family).areas
        self.areas = None if given.areas is None else swept
        self.passes: Any = None if given.no_inversion else given.inversion_steps or _INVERSION_STEPS
        about = {"layer": layer.name, "channels": layer.axes.channels, "areas": list(swept)}
        super().__init__(given, classifier, about | {"inversion_steps": self.passes})
        self.files = {"CLASS-curves.png": "the score against the number of channels"}
        if _rows_and_columns(layer.axes):
            look = "where the channels of a* look, and the score against their number"
            seen = "what the layer has seen, and what the channels of a* have"
            self.files = {"CLASS-channels.png": look} | ({"CLASS-inversion.png": seen} if self.passes else {})
        pages = {EXPLORER: _EXPLORER_FILE} if given.html else {}
        self.files = pages | self.files | {"CLASS.npz": MASKS_FILE}

    def _search(self, view: View, **shared: Any) -> ExtremalMasks:
        method, dim = LayerExtremalPerturbation(self.classifier.model, self.layer.module), self.layer.axes.channel + 1
        return method.extremal_masks(**shared, areas=self.areas, channel_dim=dim)

    def _write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        masks = cast(Tensor, found.optimal_mask())
        maps = self.layer.maps(self.classifier.normalised(view.images[:1]))
        looks = None if maps is None else heat_maps(maps, masks)
        rows = []
        for k, name in enumerate(view.names):
            base, title = view.base(folder, k), shortened(name, 48)
            if looks is None:
                kind, figure = "curves", visualization.show_curves(found, None, k, title=title)
            else:
                shown: Any = {"heat_maps": looks, "title": title}
                kind, figure = "channels", visualization.show_channels(found, view.images, k, **shown)
            found.image(k).save(f"{base}.npz")
            files = {kind: write_figure(figure, f"{base}-{kind}.png"), "masks": f"{base.name}.npz"}
            rows.append(self._numbers(found.image(k), masks[k]) | {"files": files})
        seen = {}
        if self.passes and looks is not None:
            seen = self._add_inversions(rows, looks, masks, view, folder)
        if self.html:
            how: dict[str, Any] = {"names": view.names, "title": f"Which channels of {self.layer.name} are enough?"}
            if maps is not None:
                how |= {"activations": maps.expand(len(rows), *maps.shape), "inversions": seen}
            found.to_html(folder / EXPLORER, view.images, **how)
            for row in rows:
                row["files"]["explorer"] = EXPLORER
        return rows

    def _add_inversions(
        self, rows: list[Any], looks: Tensor, masks: Tensor, view: View, folder: Path
    ) -> dict[str, Tensor]:
        """Add figure 9 of each target to its row (equation 12): its file and its numbers, or why there is none.

        Returns:
            The inversions (T, 3, h, w) of all channels and of those of a*, by name; none if a target has none.
        """
        picture = view.images[:1]
        if self.side < min(picture.shape[2:]):
            small = functional.resize(picture, [self.side], antialias=True).clamp(0, 1)
            picture = small if self.classifier.takes(small) else picture
        invert: Any = partial(
            FeatureInversion(self.classifier.model, self.layer.module).invert,
            self.classifier.normalised(picture),
            channel_dim=self.layer.axes.channel + 1,
            steps=self.passes,
            preprocess=self.classifier.normalised,
            show_progress=sys.stderr.isatty(),
        )
        whole, of_targets = None, []
        for k, row in enumerate(rows):
            try:
                whole = whole or invert()
                masked = invert(channel_mask=masks[k : k + 1])
            except (ValueError, RuntimeError) as error:  # such as a mask of channels that are zero everywhere
                say(f"{view.names[k]}: no inversion: {one_line(error)}")
                row["inversion"] = {"error": one_line(error)}
                continue
            images, title = (view.images[:1], looks[k : k + 1], whole.images, masked.images), view.names[k]
            figure = visualization.show_inversions(*images, title=shortened(title, 48))
            row["files"]["inversion"] = write_figure(figure, f"{view.base(folder, k)}-inversion.png")
            row["inversion"] = {
                name: {"dot_product": float(one.dot_products), "cosine_similarity": float(one.cosine_similarities)}
                for name, one in (("whole", whole), ("masked", masked))
            }
            of_targets.append(masked.images)
        if whole is None or len(of_targets) < len(rows):
            return {}
        every = whole.images.expand(len(rows), -1, -1, -1)
        return {"what the layer has seen": every, "what the channels of a* have seen": torch.cat(of_targets)}

    def _numbers(self, one: ExtremalMasks, mask: Tensor) -> dict[str, Any]:
        """What a row says of the channels: how many are enough, and the first of them."""
        channels = self.layer.axes.channels
        counts = [round(float(area) * channels) for area in one.areas]
        # At least 1 of a mask that keeps something; all of a mask that is not enough.
        mean = float(mask.mean())
        enough = max(round(mean * channels), int(mean > 0))
        values, indices = mask.topk(min(_TOP_CHANNELS, enough))
        top = [{"channel": k, "mask": round(value, 6)} for k, value in zip(indices.tolist(), values.tolist())]
        numbers = {"channels": channels, "optimal_channels": enough if bool(one.reached) else None}
        return numbers | {"channel_counts": counts, "top_channels": top, "runs": one.settings["runs"]}
