"""What is most interesting about a run, in whole sentences."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_MOST = 3
_HARDLY = 0.25  # of the way from the whole image's score to nothing's
_RISES = 0.05


class Sentence(NamedTuple):
    """A sentence, how interesting it is (0 to 1), what it is about, and its kind."""

    interest: float
    who: str
    kind: str
    text: str


def interesting(rows: list[dict[str, Any]]) -> list[str]:
    """At most three sentences about the rows of a summary, if possible of several kinds, and about several targets."""
    left, told = [one for row in rows for one in _about(row)], list[Sentence]()
    while left and len(told) < _MOST:
        kinds, whos = [one.kind for one in told], [one.who for one in told]
        best = max(left, key=lambda one: (-kinds.count(one.kind), -whos.count(one.who), one.interest))
        told.append(best)
        left.remove(best)
    return [one.text for one in told]


def _about(row: dict[str, Any]) -> Iterator[Sentence]:
    who = f"{row['name']}" + (f" in {Path(row['photo']).name}" if "photo" in row else "")
    clean, hidden = row["clean_score"], row["perturbed_score"]
    if row["vacuous"]:
        yield Sentence(1.0, who, "nothing", f"{who}: the score is reached with all hidden, so no part is needed.")
        return
    if not row["reached"]:
        yield Sentence(0.9, who, "none", f"{who}: none of the areas is enough for the score of the whole image.")
        return
    area, reach = row["optimal_area"], abs(clean - hidden) or 1.0
    enough = f"{who}: {100 * area:.3g} % of the image is enough. Alone it scores {row['optimal_score']:.1f}"
    yield Sentence(1 - area, who, "enough", f"{enough}, and the whole image {clean:.1f}.")
    left = row["optimal_complement_score"]
    lost = (clean - left) / reach
    without = f"{who}: without the part that is enough, the score is {left:.1f} instead of {clean:.1f}"
    if lost < _HARDLY:
        yield Sentence(
            0.8, who, "another", f"{without}. So another part is {'enough' if left >= clean else 'nearly enough'} too."
        )
    else:
        yield Sentence(min(lost, 1.0) * 0.7, who, "needed", f"{without}. So it is also needed.")
    best, at = max(zip(row["scores"], row["areas"]), default=(clean, 1.0))
    rises = (best - clean) / reach
    if rises > _RISES:
        better = f"{who}: {100 * at:.3g} % of the image scores {best:.1f}, more than all of it ({clean:.1f})"
        yield Sentence(min(0.6 + rises, 0.95), who, "better", f"{better}. So the rest speaks against the class.")
