"""The runner, on a data set of squares and a network that sees them: stopped, shared, and in one go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_extremal.datasets.annotated import AnnotatedImage, UnreadableError
from captum_extremal.evaluation import Evaluation, Processes, Row, Settings, evaluate, make_method, read_rows
from captum_extremal.metrics import energy_pointing_game, insertion_deletion, pointing_game

COLOURS = ("red", "green", "blue")
SETTINGS = Settings({"method": "own"})
ALONE = Processes(0, 1, torch.device("cpu"))
SIZES = ((20, 24), (24, 20), (20, 24))


class Squares:
    """Images of two sizes with a square of every colour but one; one of them cannot be read."""

    name, classes = "squares", COLOURS

    def __init__(self, count: int = 7, broken: Sequence[str] = ("3",)) -> None:
        self._count, self._broken, self.loads = count, broken, 0
        self.unreadable: list[str] = []

    def pairs(self) -> list[tuple[str, str]]:
        return [(str(k), colour) for k in range(self._count) for index, colour in enumerate(COLOURS) if index != k % 3]

    def load(self, image: str) -> AnnotatedImage:
        self.loads += 1
        if image in self._broken:
            raise UnreadableError(f"{image}.jpg: cannot\nbe read")
        k = int(image)
        height, width = SIZES[k % 3]
        regions = {}
        pixels = torch.rand(3, height, width, generator=torch.Generator().manual_seed(k)) / 10
        for index, colour in enumerate(COLOURS):
            region = torch.zeros(height, width, dtype=torch.bool)
            region[2 + k : 8 + k, 6 * index : 6 * index + 6] = True
            pixels[index][region] = 1
            regions[colour] = region
        return AnnotatedImage(pixels=pixels, regions=regions, difficult=frozenset(COLOURS[: k % 2]))


class Colours(nn.Module):
    """Scores (N, 3): how much there is of each colour."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().mean((2, 3))


def of_colour(x: Tensor, target: object) -> Tensor:
    """A map (N, 1, H, W): the channel of the target."""
    assert isinstance(target, list)
    return torch.stack([one[index] for one, index in zip(x, target)])[:, None]


Make = Callable[..., Evaluation]


def made(**changes: Any) -> Evaluation:
    """The usual evaluation, but for some changes."""
    usual = Evaluation(
        data=Squares(),
        model=Colours().eval(),
        prepare=lambda pixels: pixels,
        index_of={colour: index for index, colour in enumerate(COLOURS)},
        explain=of_colour,
        metrics=("pointing", "energy", "insertion_deletion"),
        batch_size=4,
    )
    return dataclasses.replace(usual, **changes)


@pytest.fixture
def make() -> Make:
    return made


def rows_in(folder: Path) -> dict[tuple[str, str], Row]:
    return read_rows([folder])[SETTINGS.key].rows


def without_time(rows: Iterable[Row]) -> set[str]:
    return {repr(dataclasses.replace(row, seconds=0.0)) for row in rows}


def test_rows_are_what_the_metrics_say_of_each_image_alone(make: Make, tmp_path: Path) -> None:
    reported: list[str] = []
    steps: list[tuple[int, int]] = []
    evaluate(make(), SETTINGS, tmp_path, ALONE, lambda *step: steps.append(step), reported.append)
    rows = rows_in(tmp_path)
    data = Squares()
    assert list(rows) == [pair for pair in data.pairs() if pair[0] != "3"]
    assert reported == ["3.jpg: cannot be read"]
    assert read_rows([tmp_path])[SETTINGS.key].unreadable == {"3": "3.jpg: cannot be read"}
    assert steps == [(0, 14), (4, 14), (8, 14), (12, 14), (14, 14)]
    for (name, colour), row in rows.items():
        image, target = data.load(name), COLOURS.index(colour)
        x = image.pixels[None]
        maps, truth = of_colour(x, [target]), [image.regions[colour]]
        (pointed,) = pointing_game(maps, ground_truth=truth)
        (energy,) = energy_pointing_game(maps, ground_truth=truth)
        curves = insertion_deletion(Colours().eval(), maps, x, target)
        assert row.difficult == (colour in image.difficult)
        assert row.seconds > 0
        assert row.values["distance"] == pointed.distance
        assert row.values["energy"] == pytest.approx(energy.value)
        assert row.values["insertion"] == pytest.approx(float(curves.insertion_auc))
        assert row.values["deletion"] == pytest.approx(float(curves.deletion_auc))


def test_pairs_whose_inputs_have_one_size_go_at_once(make: Make, tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    def explain(x: Tensor, target: object) -> Tensor:
        shapes.append(tuple(x.shape))
        return of_colour(x, target)

    data = Squares(3, broken=())
    evaluate(make(data=data, explain=explain, batch_size=6), SETTINGS, tmp_path, ALONE)
    assert shapes == [(4, 3, 20, 24), (2, 3, 24, 20)]
    assert data.loads == 3  # an image of two classes is read once


class StoppedError(Exception):
    pass


def noisy(x: Tensor, target: object) -> Tensor:
    """A map that depends on the random state and on the rest of the batch."""
    return of_colour(x, target) + torch.rand(len(x), 1, *x.shape[2:]) + x.mean()


@pytest.fixture
def whole(make: Make, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The rows of a noisy run in one go."""
    folder = tmp_path_factory.mktemp("whole")
    evaluate(make(explain=noisy), SETTINGS, folder, ALONE)
    return without_time(rows_in(folder).values())


def after(calls: int, explained: list[int]) -> Callable[[Tensor, object], Tensor]:
    """What explains that many batches, and then stops the run."""
    left = iter(range(calls))

    def explain(x: Tensor, target: object) -> Tensor:
        if next(left, None) is None:
            raise StoppedError
        explained.append(len(x))
        return noisy(x, target)

    return explain


@pytest.mark.parametrize("cut", [0, 10, 400], ids=lambda cut: f"last {cut} bytes lost")
def test_a_stopped_run_ends_as_one_in_one_go(make: Make, whole: set[str], cut: int, tmp_path: Path) -> None:
    explained: list[int] = []
    for calls in (0, 1, 2, 1, 0):
        torch.manual_seed(calls)  # chance outside plays no part
        known = set(tmp_path.iterdir())
        with pytest.raises(StoppedError):
            evaluate(make(explain=after(calls, explained)), SETTINGS, tmp_path, ALONE)
        for path in set(tmp_path.iterdir()) - known:
            path.write_bytes(path.read_bytes()[: -cut or None])
    evaluate(make(explain=after(99, explained)), SETTINGS, tmp_path, ALONE)
    assert without_time(rows_in(tmp_path).values()) == whole
    assert (sum(explained) == 12) == (cut == 0)
    evaluate(make(explain=after(0, explained)), SETTINGS, tmp_path, ALONE)  # nothing is left to do


def test_rows_of_other_settings_are_left_alone(make: Make, tmp_path: Path) -> None:
    evaluate(make(), SETTINGS, tmp_path, ALONE)
    other = Settings({"method": "other"})
    evaluate(make(), other, tmp_path, ALONE)
    runs = read_rows([tmp_path])
    assert runs[other.key].rows.keys() == runs[SETTINGS.key].rows.keys()


class Starting(Processes):
    """One of several that start together in an empty folder."""

    def agreed(self, find: Callable[[], Any]) -> Any:
        return set()


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shares_together_are_the_whole(make: Make, whole: set[str], count: int, tmp_path: Path) -> None:
    """And what one of them has left undone, another number of processes takes up."""
    for rank in range(1, count):
        evaluate(make(explain=noisy), SETTINGS, tmp_path, Starting(rank, count, torch.device("cpu")))
    assert 0 < len(rows_in(tmp_path)) < 12
    evaluate(make(explain=noisy), SETTINGS, tmp_path, ALONE)
    assert without_time(rows_in(tmp_path).values()) == whole
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines() if "values" in line]
    assert len(lines) == 12


def test_named_methods_run(make: Make, tmp_path: Path) -> None:
    model = Colours().eval()
    evaluate(make(model=model, explain=make_method("saliency", model)), SETTINGS, tmp_path, ALONE)
    assert all(row.values["distance"] == 0 for row in rows_in(tmp_path).values())


def test_what_cannot_run_is_told_at_once(make: Make) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="metrics must be one of 'energy', 'insertion_deletion', 'pointing', got 'x'"):
        make(metrics=("pointing", "x"))
    with pytest.raises(ValueError, match="index_of must have every class of the data, got none for green, blue"):
        make(index_of={"red": 0})


def picky(refused: Sequence[int]) -> Callable[[Tensor, object], Tensor]:
    """What cannot explain a batch with an image of these numbers."""

    def explain(x: Tensor, target: object) -> Tensor:
        for k in refused:
            image = Squares().load(str(k)).pixels
            if any(image.shape == one.shape and torch.equal(image, one) for one in x):
                raise RuntimeError(f"no\nmap of {k}")
        return of_colour(x, target)

    return explain


def test_an_image_that_cannot_be_explained_costs_itself_alone(make: Make, tmp_path: Path) -> None:
    """Also where it is the first, or in a batch with others, and again at each new start."""
    whole, reported = tmp_path / "whole", list[str]()
    whole.mkdir()
    evaluate(make(batch_size=6), SETTINGS, whole, ALONE)
    for starts in (1, 2):
        evaluate(make(explain=picky([0, 4]), batch_size=6), SETTINGS, tmp_path, ALONE, report=reported.append)
        expected = {pair: row for pair, row in rows_in(whole).items() if pair[0] not in ("0", "4")}
        assert without_time(rows_in(tmp_path).values()) == without_time(expected.values())
        assert reported.count("0, green: cannot be explained: no map of 0") == starts
        assert reported.count("4, red: cannot be explained: no map of 4") == starts
        kept = read_rows([tmp_path])[SETTINGS.key]
        assert (set(kept.unreadable), set(kept.unexplained)) == ({"3"}, {"0", "4"})
        assert kept.unexplained["4"] == "4, red: cannot be explained: no map of 4"
    evaluate(make(batch_size=6), SETTINGS, tmp_path, ALONE)
    assert without_time(rows_in(tmp_path).values()) == without_time(rows_in(whole).values())
    assert read_rows([tmp_path])[SETTINGS.key].unexplained == {}


def test_a_method_that_fails_for_most_images_ends_the_run(make: Make, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="map of 0"):
        evaluate(make(explain=picky([0, 1, 2, 4, 5, 6])), SETTINGS, tmp_path, ALONE)
    assert read_rows([tmp_path])[SETTINGS.key].unexplained == {}  # nothing is noted of a run that is wrong
    many, calls = Squares(40, broken=()), list[int]()

    def explain(x: Tensor, target: object) -> Tensor:
        calls.append(len(x))
        raise RuntimeError("no map")

    with pytest.raises(RuntimeError, match="no map"):
        evaluate(make(data=many, explain=explain, batch_size=1), SETTINGS, tmp_path, ALONE)
    assert len(calls) == 2 * 15 + 1  # each image has two classes; the sixteenth ends the run


def test_an_image_that_cannot_be_prepared_costs_itself_alone(make: Make, tmp_path: Path) -> None:
    def prepare(pixels: Tensor) -> Tensor:
        if torch.equal(pixels, Squares().load("4").pixels):
            raise ValueError("too narrow")
        return pixels

    evaluate(make(prepare=prepare), SETTINGS, tmp_path, ALONE)
    assert {image for image, _ in rows_in(tmp_path)} == set("01256")
    assert read_rows([tmp_path])[SETTINGS.key].unexplained["4"] == "4: cannot be explained: too narrow"


def test_a_run_under_way_is_not_done_twice(make: Make, tmp_path: Path) -> None:
    seen = []

    def explain(x: Tensor, target: object) -> Tensor:
        if not seen:
            seen.append(1)
            with pytest.raises(
                RuntimeError, match=r"another process is at this run in .*: wait for its end, or stop it"
            ):
                evaluate(make(), SETTINGS, tmp_path, ALONE)
            evaluate(make(), Settings({"method": "other"}), tmp_path, ALONE)
        return of_colour(x, target)

    evaluate(make(explain=explain), SETTINGS, tmp_path, ALONE)
    assert len(rows_in(tmp_path)) == 12
    evaluate(make(), SETTINGS, tmp_path, ALONE)  # it is free again


def test_names_that_are_no_unicode_are_explained(make: Make, tmp_path: Path) -> None:
    class Odd(Squares):
        def pairs(self) -> list[tuple[str, str]]:
            return [("caf\udce9", "red")]

        def load(self, image: str) -> AnnotatedImage:
            return super().load("1")

    evaluate(make(data=Odd()), SETTINGS, tmp_path, ALONE)
    assert list(rows_in(tmp_path)) == [("caf\udce9", "red")]


def test_a_map_that_is_none_ends_the_run_and_keeps_its_rows(make: Make, tmp_path: Path) -> None:
    calls = iter(range(9))

    def explain(x: Tensor, target: object) -> Tensor:
        return of_colour(x, target) if next(calls) < 2 else torch.full((len(x), 1, 4, 4), torch.nan)

    with pytest.raises(ValueError, match=r"finite maps, got others for image '\d' and class 'red'"):
        evaluate(make(explain=explain), SETTINGS, tmp_path, ALONE)
    assert len(rows_in(tmp_path)) == 4
