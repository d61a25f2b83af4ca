"""What the tests of the command share: photographs, untrained weights, and what a command wrote and said."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from captum_extremal import cli
from captum_extremal.cli import output
from captum_extremal.cli.classifier import Classifier

NETWORK = "squeezenet1_0"


def picture(width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height))


def untrained_network(classes):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = torchvision.models.get_model(NETWORK, weights=None, num_classes=classes)
    model.classifier[1].weight.data *= 30  # untrained, its outputs would hardly differ
    return model


def tiny_classifier(make, categories, side=32):
    """A classifier whose weights want a shorter side of this many pixels."""
    preset = copy.copy(torchvision.models.get_model_weights(NETWORK).DEFAULT.transforms())
    preset.resize_size = preset.crop_size = [side]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = make().eval()
    return Classifier("net", "file", model, preset, categories, torch.device("cpu"))


def run_quietly(*arguments):
    """The exit status of a command whose figures are small, its stdout and its stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        patch.setattr(output, "DPI", 60)  # enough to see that there is a figure
        return cli.main(list(map(str, arguments))), stdout.getvalue(), stderr.getvalue()


def whole_logits(path, state, **how):
    """The logits of a photograph by torchvision's own transforms, without their crop."""
    model = torchvision.models.get_model(NETWORK, weights=None, **how).eval()
    model.load_state_dict(state)
    preset = torchvision.models.get_model_weights(NETWORK).DEFAULT.transforms()
    preset.crop_size = [256, 307]  # all of it
    with Image.open(path) as photo, torch.no_grad():
        x = preset(photo.convert("RGB")).unsqueeze(0)
        return model, x, model(x)[0]


def read_summary(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def one_line(text):
    assert text.count("\n") == 1
    assert "Traceback" not in text
    assert len(text) < 600
    return text
