"""Tests of the choice of a floating type for the model during a search."""

import pytest
import torch
from torch import Tensor, nn

from captum_extremal import ExtremalPerturbation, PathSolver, PenaltySolver
from captum_extremal.search.precision import chosen_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("capability", "chosen"), [("AVX512", torch.bfloat16), ("AVX2", None), ("DEFAULT", None)])
def test_auto_is_bfloat16_on_cpus_that_are_fast_at_it(
    capability: str, chosen: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert chosen_precision("auto", CPU) is chosen


@pytest.mark.parametrize(("capability", "chosen"), [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), None)])
def test_auto_is_bfloat16_on_gpus_that_have_it(
    capability: tuple[int, int], chosen: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert chosen_precision("auto", torch.device("cuda", 0)) is chosen


def test_other_devices_and_other_settings_stay_as_they_are() -> None:
    assert chosen_precision("auto", torch.device("meta")) is None
    assert chosen_precision(None, CPU) is None
    assert chosen_precision(torch.float16, CPU) is torch.float16


@pytest.mark.parametrize("solver", [PathSolver, PenaltySolver])
def test_bad_precision_is_named(solver: type) -> None:
    rule = r"precision must be torch\.bfloat16, torch\.float16, 'auto' or None, got"
    with pytest.raises(ValueError, match=rf"{rule} 'fast'"):
        solver(precision="fast")
    with pytest.raises(ValueError, match=rf"{rule} torch\.float64"):  # which autocast does not take
        solver(precision=torch.float64)
    for no_type in (torch.int64, 16):
        with pytest.raises(TypeError, match=rf"{rule} {no_type}"):
            solver(precision=no_type)


@pytest.mark.parametrize(("capability", "told"), [("AVX512", "bfloat16"), ("AVX2", None)])
def test_result_says_what_was_chosen_and_the_model_runs_in_it(
    capability: str, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    seen: set[torch.dtype] = set()
    convolution = nn.Conv2d(3, 2, 3).eval()

    def model(x: Tensor) -> Tensor:
        y = convolution(x)
        seen.add(y.dtype)
        return y.mean((2, 3))

    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    solver = PathSolver(steps=6, precision="auto")
    found = ExtremalPerturbation(model).extremal_masks(x, target=0, areas=0.3, solver=solver)
    assert found.settings["precision"] == told
    assert seen == ({torch.float32, torch.bfloat16} if told else {torch.float32})
