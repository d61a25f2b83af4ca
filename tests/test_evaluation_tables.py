"""Tables against numbers counted by hand."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from captum_extremal.evaluation import Kept, Row, Settings, as_frame, leads, tabulate

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


def test_a_setting_is_not_taken_for_an_option_of_the_same_name() -> None:
    """Whatever its name begins with."""
    one, other = {"options.steps": 1, "options": {"steps": 2}}, {"options.steps": 1, "options": {"steps": 3}}
    assert [line.label for line in tabulate([kept(ROWS, **one), kept(ROWS, **other)])] == [
        "saliency steps=2",
        "saliency steps=3",
    ]
    both = [kept(ROWS, **one), kept(ROWS, **one | {"options.steps": 2})]
    assert [line.label for line in tabulate(both)] == ["saliency options.steps=1", "saliency options.steps=2"]


def test_the_frame_has_a_row_for_each_run_metric_and_subset(tmp_path: Path) -> None:
    """As a CSV file it gives back the very numbers."""
    lines = tabulate([kept(ROWS), kept(ROWS[:2], method="rise")])
    as_frame(lines).to_csv(tmp_path / "table.csv", index=False)
    (first, difficult, other) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert [row["subset"] for row in (first, difficult, other)] == ["all", "difficult", "all"]
    assert (first["label"], other["label"], first["settings"]) == ("saliency", "rise", lines[0].key)
    score = lines[0].scores["pointing"]["all"]
    assert [float(first[name]) for name in ("mean", "low", "high")] == [score.mean, score.low, score.high]
    assert list(first)[4:] == ["mean", "low", "high", "pairs", "skipped", "images", "unreadable", "seconds_per_image"]
    assert [first[name] for name in ("pairs", "skipped", "images", "unreadable")] == ["5", "1", "4", "1"]


def judged(values: dict[str, dict[str, float | None]]) -> list[Row]:
    return [
        Row(image=name[0], label=name[1:], difficult=False, seconds=1.0, values=one) for name, one in values.items()
    ]


def test_insertion_is_averaged_over_the_pairs() -> None:
    rows = judged({f"{image}{'cat' if image < 'd' else 'dog'}": {"insertion": float(image == "d")} for image in "abcd"})
    (line,) = tabulate([kept(rows)])
    score = line.scores["insertion"]["all"]
    assert (score.mean, score.by_class) == (0.25, {"all": 0.25})
    assert score.high == 0.75  # a photograph drawn thrice counts thrice, though it is alone in its class


def test_leads_are_differences_of_the_pairs_that_both_have() -> None:
    one = {"acat": {"energy": 0.5, "distance": 0.0}, "bcat": {"energy": 0.75}, "cdog": {"energy": 0.25}, "dcow": {}}
    two = {"acat": {"energy": 0.25, "distance": 9.0}, "bcat": {"energy": 0.75}, "cdog": {"energy": 0.5}}
    runs = [kept(judged(one)), kept(judged(two), method="b"), kept(judged(two), method="c", data="coco"), kept([])]
    found = leads(runs, "saliency data=voc", tolerance=3)
    assert list(found) == ["b data=voc"]
    energy, pointing = found["b data=voc"]["energy"], found["b data=voc"]["pointing"]
    assert energy.by_class == {"cat": 0.125, "dog": -0.25}
    assert (energy.mean, energy.pairs, pointing.mean, pointing.pairs) == (-0.0625, 3, 1.0, 1)
    back = leads(runs, "b data=voc", tolerance=3)["saliency data=voc"]["energy"]
    assert (back.mean, back.low, back.high) == pytest.approx((-energy.mean, -energy.high, -energy.low))
    with pytest.raises(ValueError, match="label must be that of one of the runs, saliency data=voc, b data=voc"):
        leads(runs, "d")


def test_there_is_no_lead_on_a_run_of_other_data_of_the_same_name() -> None:
    runs = [
        kept(ROWS, method="a", data_checksum="1"),
        kept(ROWS, method="b", data_checksum="2"),
        kept(ROWS, method="c", data_checksum="1"),
    ]
    labels = [line.label for line in tabulate(runs)]
    assert labels == ["a data_checksum=1", "b data_checksum=2", "c data_checksum=1"]
    assert list(leads(runs, labels[0])) == labels[2:]


def test_a_lead_is_surer_than_the_numbers_it_is_made_of() -> None:
    hard = [0.1, 0.9, 0.3, 0.7, 0.5, 0.2, 0.8, 0.4]
    runs = [
        kept(judged({f"{k}cat": {"energy": value + ahead} for k, value in enumerate(hard)}), method=name)
        for name, ahead in (("a", 0.02), ("b", 0.0))
    ]
    score = leads(runs, "a")["b"]["energy"]
    assert (score.mean, score.low, score.high) == pytest.approx((0.02, 0.02, 0.02))


def test_what_was_measured_tells_apart_only_what_nothing_else_does() -> None:
    layers = [kept(ROWS, layer="x", metrics=["pointing"]), kept(ROWS, layer="y", metrics=["energy"])]
    assert [line.label for line in tabulate(layers)] == ["saliency layer=x", "saliency layer=y"]
    metrics = [kept(ROWS, metrics=["pointing"]), kept(ROWS, metrics=["energy"])]
    assert len({line.label for line in tabulate(metrics)}) == 2


def test_a_label_cannot_move_the_cursor() -> None:
    (line,) = tabulate([kept(ROWS, method="\x1b[2Jrise\n")])
    assert line.label == "?[2Jrise?"
