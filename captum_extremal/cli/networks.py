"""Networks that are not torchvision's: ``timm:NAME``, and ``package.module:function`` of one's own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from captum_extremal.cli.console import FAILED, StopError, one_line, stopping
from captum_extremal.cli.options import DEFAULT
from captum_extremal.cli.weights import from_file

TIMM = "timm:"
_MEAN, _STD, _SIDE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224  # of most networks that know ImageNet


class Look(NamedTuple):
    """How a network wants its pictures, where the options say so: mean and deviation of RGB, shorter side in pixels."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None

    @classmethod
    def of(cls, given: Any) -> "Look":
        """What the options say."""
        return cls(given.mean, given.std, given.size)

    def over(self, preset: Any) -> Any:
        """The transforms of the weights, with what the options say in their place."""
        if self == Look():
            return preset  # detectors' have none of these
        names = "resize_size", "crop_size", "mean", "std", "interpolation", "antialias"
        made = SimpleNamespace(**{name: getattr(preset, name) for name in names})
        made.mean, made.std = self.mean or made.mean, self.std or made.std
        if self.size is not None:
            made.resize_size = made.crop_size = [self.size]
        return made


class Found(NamedTuple):
    """A network as its source has it."""

    model: nn.Module
    weights: str
    preset: Any  # as those of torchvision's weights
    categories: list[str] | None  # None where the source names no classes
    classes: int


def found_network(name: str, weights: str | None, look: Look) -> Found:
    """The network of a name with a colon in it; weights None are those that it has from the start."""
    return _of_timm(name, weights) if name.startswith(TIMM) else _of_function(name, weights, look)


def _of_timm(name: str, weights: str | None) -> Found:
    short = name.removeprefix(TIMM)
    try:
        timm = import_module("timm")
    except ImportError as error:
        raise StopError(f"--model: {name} needs the package timm: pip install timm") from error
    known = timm.list_models()
    if short.partition(".")[0] not in known:
        close = get_close_matches(short, known, 4)
        raise StopError(f"--model: timm has no model named {short!r}" + f"; near it: {', '.join(close)}" * bool(close))
    make, used = partial(timm.create_model, short, pretrained=False), weights or "none"
    if used.upper() == DEFAULT:
        what = f"--weights: those of {name} cannot be downloaded, but a file may be given instead"
        with stopping(what, Exception):  # whatever the hub raises
            model = timm.create_model(short, pretrained=True)
    else:
        model = make()
    how, count = timm.data.resolve_model_data_config(model), model.num_classes
    if weights is not None and used.upper() != DEFAULT:
        model, count = from_file(name, weights, count, lambda classes: make(num_classes=classes))
    side = how["input_size"][-1]
    preset = _preset([int(side / how["crop_pct"])], [side], how["mean"], how["std"], how["interpolation"])
    subset = timm.data.infer_imagenet_subset(model)
    return Found(model, used, preset, timm.data.ImageNetInfo(subset).label_descriptions() if subset else None, count)


def _of_function(name: str, weights: str | None, look: Look) -> Found:
    module, _, function = name.partition(":")

    def make(_classes: int | None = None) -> nn.Module:
        with _from_here(), _telling_of(name):
            made = attrgetter(function)(import_module(module))()
        if not isinstance(made, nn.Module):
            raise StopError(f"--model: {name} must return a torch.nn.Module, got {type(made).__name__}")
        return made

    model, used = make(), weights or DEFAULT
    side = [look.size or _SIDE]
    count = _classes_of(model, name, side[0])
    if used.upper() != DEFAULT:
        model, count = from_file(name, used, count, make)
    else:
        used = "its own"
    return Found(model, used, _preset(side, side, _MEAN, _STD, "bilinear"), None, count)


@contextmanager
def _from_here() -> Iterator[None]:
    """Let modules of the folder in which the command was given be imported."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the module may have removed it
            sys.path.remove(folder)


@contextmanager
def _telling_of(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever somebody's module raises
        raise StopError(f"--model: {name} cannot be had: {type(error).__name__}: {one_line(error)}") from error


@torch.no_grad()
def _classes_of(model: nn.Module, name: str, side: int) -> int:
    """How many scores the network has, of a grey picture."""
    training = model.training
    try:
        scores = model.eval()(torch.zeros(1, 3, side, side))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise StopError(f"--model: {name} cannot run at {side} px (--size): {one_line(error)}", FAILED) from error
    finally:
        model.train(training)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        raise StopError(f"--model: {name} must return scores (N, K), got {_shape_of(scores)}", FAILED)
    return scores.shape[1]


def _shape_of(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _preset(resized: list[int], cropped: list[int], mean: Any, std: Any, interpolation: str) -> Any:
    how = {"interpolation": InterpolationMode(interpolation), "antialias": True}
    return SimpleNamespace(resize_size=resized, crop_size=cropped, mean=tuple(mean), std=tuple(std), **how)
