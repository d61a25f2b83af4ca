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

    Quantus hands over a model at every call, sometimes another than before, so a function of it is asked for.

    Args:
        make_attribution: from a model to a Captum attribution or a function ``(inputs, target=...)``, such as
            ``ExtremalPerturbation`` itself, or ``lambda model: partial(ExtremalPerturbation(model).attribute,
            reduce="sum")``.

    Returns:
        ``explain(model, inputs, targets, device=None)``, from arrays (N, C, *S) and (N,) to maps (N, 1, *S): one
        number a position, because Quantus' localisation metrics compare maps with masks of one channel. Channels are
        averaged, and maps of a layer are resized to the input.

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
        explanation = make_attribution(model)
        _maps.check_explanation(explanation, "make_attribution's result")
        found = _maps.explain(explanation, x, target, name="make_attribution's result")
        return _maps.resize(_maps.positions(found), tuple(x.shape[2:])).unsqueeze(1).cpu().numpy()

    return explain
