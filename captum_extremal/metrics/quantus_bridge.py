"""From a Captum attribution to what Quantus calls an explanation function; Quantus itself is not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from captum_extremal._checks import check_callable
from captum_extremal.metrics import _maps
from captum_extremal.metrics._maps import Explanation


def quantus_explainer(make_attribution: Callable[[nn.Module], Explanation]) -> Callable[..., NDArray[Any]]:
    """The ``explain_func`` with which Quantus' metrics call an attribution.

    Args:
        make_attribution: a function from a model, because Quantus passes one in every call and it may change, to a
            Captum attribution or a function ``(inputs, target=...)``. ``ExtremalPerturbation`` itself is one, or
            ``lambda model: partial(ExtremalPerturbation(model).attribute, reduce="sum")``.

    Returns:
        ``explain(model, inputs, targets, device=None)``, from arrays (N, C, *S) and (N,) to maps (N, 1, *S), because
        Quantus' localisation metrics compare maps with masks of one channel. Channels are averaged, and maps of a
        layer are resized to the input.

    Raises:
        TypeError: ``make_attribution`` is no function of a model.

    Examples::

        >>> explain = quantus_explainer(ExtremalPerturbation)
        >>> quantus.PointingGame()(model, x, y, s_batch=masks, explain_func=explain, device="cpu")
    """
    check_callable("make_attribution", make_attribution, "model")

    def explain(model: nn.Module, inputs: Any, targets: Any, device: torch.device | str | None = None) -> NDArray[Any]:
        parameter = next(model.parameters(), torch.empty(0))
        x = torch.as_tensor(np.asarray(inputs)).to(device or parameter.device, parameter.dtype)
        target = torch.as_tensor(np.asarray(targets)).long().to(x.device)
        found = _maps.explain(make_attribution(model), x, target, name="make_attribution's result")
        return _maps.positions(found, tuple(x.shape[2:])).unsqueeze(1).cpu().numpy()

    return explain
