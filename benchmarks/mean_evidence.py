"""Excitation backprop of the digit network, which it cannot follow to the end.

    cd benchmarks; captum-extremal evaluate --data digits:180 --model digits --metric pointing,energy \
      --method mean_evidence:contrastive_excitation_backprop --out results/digits

The network's scores are log-sum-exps of a digit's evidence over all places, for which excitation backprop has no rule.
Here the mean of the same evidence is explained instead.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from captum_extremal.evaluation import make_method


def excitation_backprop(model: nn.Module) -> Callable[..., Tensor]:
    return make_method("excitation_backprop", of_the_mean(model))


def contrastive_excitation_backprop(model: nn.Module) -> Callable[..., Tensor]:
    return make_method("contrastive_excitation_backprop", of_the_mean(model))


def of_the_mean(model: nn.Module) -> nn.Module:
    return nn.Sequential(model.features, model.classifier, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
