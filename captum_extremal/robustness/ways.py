"""The ways of hiding: the search's own, a fade, blurs, the content of other inputs, noise."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from captum_extremal._state import as_plain
from captum_extremal.arguments import Tensors, check_examples
from captum_extremal.masks.lengths import each_axis
from captum_extremal.perturbations import BlurPyramid, BoundPerturbation, FadePyramid, Perturbation, of_each_input
from captum_extremal.session import Bind, Session, channels_first

_BLURS = {"half blur": 0.5, "blur": 1.0, "double blur": 2.0}  # times the default standard deviation
_SEED = 0  # of the noise, which is the same in every call


@dataclass(frozen=True)
class Way:
    """One way of hiding: a perturbation, and the baselines it is given in turn, over which the values are averaged."""

    bind: Bind | list[Bind]
    baselines: list[Tensors]


def ways_of_hiding(session: Session, own: Perturbation, others: Tensor | Tensors | None) -> dict[str, Way]:
    """The ways by their names; that of the others is missing where there are none."""
    default = [session.baselines]
    own_binds: list[Bind] = [one.bind for one in of_each_input(own, len(session.inputs))]
    ways = {"own": Way(own_binds, default), "fade": Way(FadePyramid().bind, default)}
    ways |= {name: Way(partial(_blurred, factor), default) for name, factor in _BLURS.items()}
    if contents := _contents_of_others(session, others):
        ways["others"] = Way(FadePyramid().bind, contents)
    return ways | {"noise": Way(FadePyramid().bind, [_noise_like(session.inputs)])}


def _blurred(factor: float, x: Tensor, baseline: Tensor) -> BoundPerturbation:
    shape = tuple(x.shape[2:])
    default = each_axis("sigma_max", BlurPyramid().sigma_for(shape), shape)
    return BlurPyramid(sigma_max=tuple(factor * along for along in default)).bind(x, baseline)


def _contents_of_others(session: Session, others: Tensor | Tensors | None) -> list[Tensors]:
    """What hidden positions show of other inputs, in the inputs' shapes; nothing where there are no others."""
    if others is not None:
        given = _check_others(others, session)
        return [tuple(o[m].to(x).expand_as(x) for o, x in zip(given, session.inputs)) for m in range(len(given[0]))]
    rows = _row_of_another(session.inputs)
    return [] if rows is None else [tuple(x[rows] for x in session.inputs)]


def _row_of_another(inputs: Tensors) -> Tensor | None:
    """For each image the row (N,) of the nearest image before it in the batch that differs; None if all are equal.

    A batch may hold one image several times, each with another target. Its own content would hide nothing.
    """
    rows = torch.arange(len(inputs[0]), device=inputs[0].device)
    chosen = rows.clone()
    for shift in range(1, len(rows)):
        other = rows.roll(shift)
        differs = torch.stack([(x != x[other]).flatten(1).any(1) for x in inputs]).any(0)
        chosen = torch.where((chosen == rows) & differs, other, chosen)
    return None if bool((chosen == rows).any()) else chosen


def _noise_like(inputs: Tensors) -> Tensors:
    """Noise with each image's own mean and standard deviation in each channel; the same draw for all images."""
    generator = torch.Generator().manual_seed(_SEED)  # on the CPU, so that every device gets the same noise
    found = []
    for x in inputs:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        positions = tuple(range(2, x.dim()))
        mean, spread = values.mean(positions, keepdim=True), values.std(positions, correction=0, keepdim=True)
        drawn = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64, device="cpu")
        found.append(mean + spread * drawn.to(values))
    return tuple(found)


def _check_others(others: Tensor | Tensors, session: Session) -> Tensors:
    """Other inputs, (M, C, *S) for each input tensor."""
    if isinstance(others, tuple) != session.is_tuple:
        kind = "a tuple of tensors" if session.is_tuple else "a tensor"
        raise TypeError(f"others must be {kind} as the inputs are, got {type(others).__name__}")
    given = check_examples(others, "others")
    if [x.dim() for x in given] == [x.dim() for x in session.inputs]:
        given = channels_first(given, session.channel_dims)
    shapes, wanted = [[tuple(x.shape[1:]) for x in tensors] for tensors in (given, session.inputs)]
    if shapes != wanted or not all(x.is_floating_point() for x in given):
        rule = f"floating tensors (M, C, *S) of the inputs' shapes {wanted} after the first dimension"
        raise ValueError(f"others must be {rule}, got {[(tuple(x.shape), str(x.dtype)) for x in given]}")
    return tuple(as_plain(x.detach()) for x in given)
