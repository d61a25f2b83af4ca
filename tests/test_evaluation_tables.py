"""Tables against numbers counted by hand."""

from __future__ import annotations

import math

import pytest

from captum_extremal.evaluation import Kept, Row, Settings, tabulate

ABOUT = {"data": "voc", "method": "saliency", "layer": None}


def kept(rows: list[Row], pairs: int = 9, **changes: object) -> Kept:
    return Kept(Settings(ABOUT | changes), pairs, {row.pair: row for row in rows}, {"z": "z.jpg: truncated"})


def row(image: str, label: str, distance: float | None, *, difficult: bool = False, seconds: float = 1.0) -> Row:
    return Row(image=image, label=label, difficult=difficult, seconds=seconds, values={"distance": distance})


ROWS = [
    row("a", "cat", 0.0, seconds=3.0),
    row("b", "cat", 15.0),
    row("c", "cat", 15.5, difficult=True),
    row("d", "cat", None),
    row("a", "dog", 2.0, difficult=True),
    Row(image="d", label="dog", difficult=False, seconds=1.0, values={}),
]


def test_class_averaged_means_over_pairs_and_the_difficult_subset() -> None:
    (line,) = tabulate([kept(ROWS)])
    every, difficult = line.scores["pointing"]["all"], line.scores["pointing"]["difficult"]
    assert (every.mean, every.by_class) == (0.75, {"cat": 0.5, "dog": 1.0})
    assert (every.pairs, every.skipped) == (5, 1)
    assert (difficult.mean, difficult.pairs, difficult.skipped) == (0.5, 2, 0)
    assert every.low < every.mean < every.high
    assert (line.images, line.rows, line.pairs, line.unreadable) == (4, 6, 9, 1)
    assert line.seconds == pytest.approx(8 / 6)
    assert line.seconds_per_image == 2.0
    assert list(line.scores) == ["pointing"]


@pytest.mark.parametrize(("tolerance", "cat"), [(0, 1 / 4), (14.9, 1 / 4), (15, 2 / 4), (15.5, 3 / 4), (1e9, 3 / 4)])
def test_the_tolerance_is_that_of_the_table(tolerance: float, cat: float) -> None:
    """A map that points nowhere misses whatever the tolerance."""
    (line,) = tabulate([kept(ROWS)], tolerance)
    assert line.scores["pointing"]["all"].by_class["cat"] == cat


def test_the_order_of_rows_and_how_they_were_written_changes_nothing() -> None:
    (line,), (other,) = tabulate([kept(ROWS)]), tabulate([kept(ROWS[::-1])])
    assert line.scores == other.scores


def test_runs_without_rows_are_left_out_and_subsets_without_pairs_too() -> None:
    assert tabulate([kept([])]) == []
    (line,) = tabulate([kept(ROWS[:2])])
    assert list(line.scores["pointing"]) == ["all"]
    (line,) = tabulate([kept([ROWS[-1]])])
    assert line.scores == {}


def test_several_metrics_have_a_column_each() -> None:
    values = {"distance": 1.0, "energy": 0.25, "insertion": 0.5, "deletion": 0.125}
    (line,) = tabulate([kept([Row(image="a", label="cat", difficult=False, seconds=1.0, values=dict(values))])])
    means = {column: scores["all"].mean for column, scores in line.scores.items()}
    assert means == {"pointing": 1.0, "energy": 0.25, "insertion": 0.5, "deletion": 0.125}
    assert not math.isnan(line.scores["energy"]["all"].low)


def test_labels_say_in_what_runs_differ() -> None:
    runs = [kept(ROWS), kept(ROWS, method="rise"), kept(ROWS, method="rise", layer="x", data="coco")]
    labels = [line.label for line in tabulate(runs)]
    assert labels == ["saliency data=voc", "rise data=voc", "rise data=coco"]
    labels = [line.label for line in tabulate([*runs[:2], kept(ROWS, method="rise", layer="x")])]
    assert labels == ["saliency", "rise layer=None", "rise layer=x"]


def test_labels_name_the_options_that_differ() -> None:
    runs = [kept(ROWS, steps=9, options={"steps": steps, "areas": [0.1] * 50}) for steps in (1, 2)]
    assert [line.label for line in tabulate(runs)] == ["saliency steps=1", "saliency steps=2"]


def test_what_was_measured_tells_apart_only_what_nothing_else_does() -> None:
    layers = [kept(ROWS, layer="x", metrics=["pointing"]), kept(ROWS, layer="y", metrics=["energy"])]
    assert [line.label for line in tabulate(layers)] == ["saliency layer=x", "saliency layer=y"]
    metrics = [kept(ROWS, metrics=["pointing"]), kept(ROWS, metrics=["energy"])]
    assert len({line.label for line in tabulate(metrics)}) == 2


def test_rows_without_a_checksum_of_the_data_stand_beside_those_with_one() -> None:
    runs = [kept(ROWS), kept(ROWS, method="rise", data_checksum="1"), kept(ROWS, data_checksum="1")]
    assert [line.label for line in tabulate(runs)] == ["saliency", "rise", "saliency data_checksum=1"]
    runs[1] = kept(ROWS, method="rise", data_checksum="2")
    labels = [line.label for line in tabulate(runs)]
    assert labels == ["saliency", "rise data_checksum=2", "saliency data_checksum=1"]


def test_a_label_cannot_move_the_cursor() -> None:
    (line,) = tabulate([kept(ROWS, method="\x1b[2Jrise\n")])
    assert line.label == "?[2Jrise?"
