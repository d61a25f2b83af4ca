"""``captum-extremal channels``: the fewest channels of a layer that are enough for a class (section 5)."""

import inspect
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from torchvision.transforms import functional

from captum_extremal import ChannelMask, ExtremalMasks, FeatureInversion, LayerExtremalPerturbation, visualization
from captum_extremal.cli.classifier import Classifier, loaded_classifier
from captum_extremal.cli.console import WRONG_ARGUMENT, StopError, one_line, print_table, say, shortened, stopping
from captum_extremal.cli.layers import Layer, as_text, chosen_layer, outputs_of, rows_and_columns
from captum_extremal.cli.options import LIST
from captum_extremal.cli.output import MASKS_FILE, write_figure, write_masks
from captum_extremal.cli.photo_run import PhotoRun, View
from captum_extremal.settings import LayerSearchSettings

_TOP_CHANNELS = 10
_INVERSION_STEPS = inspect.signature(FeatureInversion.invert).parameters["steps"].default


def run(given: Any) -> int:
    """Mask the channels of the layer for the photographs, or list the layers; the exit status."""
    if given.layer == LIST:
        classifier = loaded_classifier(given.model, None)
        modules = dict(classifier.model.named_modules())
        rows = [(name, type(modules[name]).__name__, as_text(out)) for name, out in outputs_of(classifier).items()]
        print_table(rows, ("layer", "kind", "output"))
        return 0
    if not given.photos:
        raise StopError("PHOTO: at least one photograph must be given")
    classifier = loaded_classifier(given.model, given.weights, given.classes, given.device)
    run = ChannelRun(given, classifier, chosen_layer(classifier, given.layer, given.channel_dim, given.prefix_tokens))
    print(run.layer)
    return run.over(given.photos)


class ChannelRun(PhotoRun):
    """Masks over the channels of a layer."""

    everything = "1.0, all channels"

    def __init__(self, given: Any, classifier: Classifier, layer: Layer) -> None:
        self.layer, self.side, family = layer, given.inversion_side, ChannelMask()
        with stopping("--areas", TypeError, ValueError, status=WRONG_ARGUMENT):
            self.areas = LayerSearchSettings(areas=given.areas).fractions([family.layout(layer.axes)], family)
        self.passes = None if given.no_inversion else given.inversion_steps or _INVERSION_STEPS
        about = {"layer": layer.name, "channels": layer.axes.channels, "areas": list(self.areas)}
        super().__init__(given, classifier, about | {"inversion_steps": self.passes})
        self.files = {"CLASS-curves.png": "the score against the number of channels"}
        if rows_and_columns(layer.axes):
            look = "where the channels of a* look, and the score against their number"
            seen = "what the layer has seen, and what the channels of a* have"
            self.files = {"CLASS-channels.png": look} | ({"CLASS-inversion.png": seen} if self.passes else {})
        self.files["CLASS.npz"] = MASKS_FILE

    def _search(self, view: View) -> ExtremalMasks:
        method = LayerExtremalPerturbation(self.classifier.model, self.layer.module)
        how: dict[str, Any] = {"areas": self.areas, "channel_dim": self.layer.axes.channel + 1}
        return method.extremal_masks(**self.arguments(view), **how)

    def _write(self, found: ExtremalMasks, view: View, folder: Path) -> list[dict[str, Any]]:
        masks = cast(Tensor, found.optimal_mask())
        heat_maps = self.layer.heat_maps(self.classifier.normalised(view.picture), masks)
        rows = []
        for k, name in enumerate(view.names):
            base, title = view.base(folder, k), shortened(name, 48)
            if heat_maps is None:
                kind, figure = "curves", visualization.show_curves(found, k, title=title)
            else:
                kind, figure = (
                    "channels",
                    visualization.show_channels(found, heat_maps, view.repeated(), k, title=title),
                )
            files = {kind: write_figure(figure, f"{base}-{kind}.png"), "masks": write_masks(found, k, base)}
            rows.append(self._numbers(found.image(k), masks[k]) | {"files": files})
        if self.passes and heat_maps is not None:
            self._write_inversions(rows, heat_maps, masks, view, folder)
        return rows

    def _write_inversions(
        self, rows: list[dict[str, Any]], heat_maps: Tensor, masks: Tensor, view: View, folder: Path
    ) -> None:
        """Add figure 9 of each target to its row (equation 12): its file and its numbers, or why there is none."""
        picture = view.picture
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
        whole = None
        for k, row in enumerate(rows):
            try:
                whole = whole or invert()
                masked = invert(channel_mask=masks[k : k + 1])
            except (ValueError, RuntimeError) as error:  # such as a mask of channels that are zero everywhere
                say(f"{view.names[k]}: no inversion: {one_line(error)}")
                row["inversion"] = {"error": one_line(error)}
                continue
            images, title = (view.picture, heat_maps[k : k + 1], whole.images, masked.images), view.names[k]
            figure = visualization.show_inversions(*images, title=shortened(title, 48))
            row["files"]["inversion"] = write_figure(figure, f"{view.base(folder, k)}-inversion.png")
            row["inversion"] = {"whole": _similarity(whole), "masked": _similarity(masked)}

    def _numbers(self, one: ExtremalMasks, mask: Tensor) -> dict[str, Any]:
        """What a row says of the channels: how many are enough, and the first of them."""
        channels = self.layer.axes.channels
        counts = [round(float(area) * channels) for area in one.areas]
        enough = counts[int(one.optimal_index)]
        values, indices = mask.topk(min(_TOP_CHANNELS, enough))
        top = [{"channel": k, "mask": round(value, 6)} for k, value in zip(indices.tolist(), values.tolist())]
        numbers = {"channels": channels, "optimal_channels": enough if bool(one.reached) else None}
        return numbers | {"channel_counts": counts, "top_channels": top, "runs": one.settings["runs"]}


def _similarity(inverted: Any) -> dict[str, float]:
    numbers = {"dot_product": inverted.dot_products, "cosine_similarity": inverted.cosine_similarities}
    return {name: float(value) for name, value in numbers.items()}
