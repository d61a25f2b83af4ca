"""What every test file shares: seeds, tiny networks, the devices at hand, and where real photographs may be found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from captum_extremal import PathSolver

mpl.use("Agg")
torch.set_num_threads(1)  # the same bits on every machine, and no fight for its cores

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("suite")

CLASSES = 5
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_POOLS = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class Counted:
    """A forward function that counts its calls and the rows that it was given."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self._forward_func = forward_func
        self.rows: list[int] = []

    @property
    def calls(self) -> int:
        return len(self.rows)

    def __call__(self, *args: Any) -> Any:
        self.rows.append(len(args[0]))
        return self._forward_func(*args)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def _no_figures() -> Iterator[None]:
    """Close what examples have drawn with pyplot: other tests check that nothing of ours is left there."""
    yield
    plt.close("all")


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def make_network() -> Callable[..., nn.Sequential]:
    """Networks (N, C, *S) -> (N, 5) with one convolution, in eval mode, the same at each call."""

    def make(dimensions: int = 2, channels: int = 3, dtype: torch.dtype = torch.float64) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            network = nn.Sequential(
                _CONVOLUTIONS[dimensions](channels, 4, 3, padding=1),
                nn.ReLU(),
                _POOLS[dimensions](2),
                nn.Flatten(),
                nn.Linear(4 * 2**dimensions, CLASSES),
            )
        return network.to(dtype).eval()

    return make


@pytest.fixture
def network(make_network: Callable[..., nn.Sequential]) -> nn.Sequential:
    return make_network()


@pytest.fixture
def images() -> Tensor:
    """Two images (2, 3, 16, 16) in float64."""
    return torch.randn(2, 3, 16, 16, dtype=torch.float64)


@pytest.fixture
def quick() -> PathSolver:
    return PathSolver(steps=10)


@pytest.fixture
def counted() -> type[Counted]:
    return Counted


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; DATA.md in it says what it holds."""
    named = os.environ.get("CAPTUM_EXTREMAL_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "images").is_dir():
        pytest.skip(f"no real data: {folder} has no images; name a folder in CAPTUM_EXTREMAL_DATA")
    return folder


@pytest.fixture(scope="session")
def photographs(shared_data: Path) -> list[Path]:
    """Real photographs, named NNNN_name.jpg after their ImageNet class."""
    return sorted((shared_data / "images").glob("*.jpg"))
