"""Random calls of the public methods in great number: ``fuzz.py N`` prints how they ended, method by method.

Each call has a number, from which alone it is made, so that ``fuzz.py 1 --first NUMBER`` repeats one. With ``--rows
FILE`` each ending is kept, and the same command goes on where it was stopped. Faults are printed as they are found, and
the exit status is then 1.

A call has one of three endings: a result that keeps to its invariants, TypeError, or ValueError, which name the one
argument that is bad. An error of the user's model on the clean inputs counts as one of an argument too: where the model
fails for them each time, with an error as models raise for inputs of another shape, the package raises a ValueError or
TypeError that names the inputs and tells the model's own words. Anything else that the model's code raises, such as an
error that does not come again or one of memory, is the model's own: it passes through as it is, and no call made here
ends so.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from random_calls import FaultError, ending_of, random_call

torch.set_num_threads(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("calls", type=int, metavar="N")
    parser.add_argument("--first", type=int, default=0, help="the number of the first call")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no call begins after so many")
    parser.add_argument("--rows", type=Path, help="a file in which each ending is kept")
    given = parser.parse_args()
    started, rows = time.perf_counter(), kept_in(given.rows)
    for number in range(given.first, given.first + given.calls):
        if time.perf_counter() - started > given.seconds:
            break
        if number not in rows:
            rows[number] = row_of(number)
            keep(given.rows, number, rows[number])
    print_table(list(rows.values()))
    return int(any(ending == "fault" for _, ending, _ in rows.values()))


def kept_in(path: Path | None) -> dict[int, list[str]]:
    """The method, the ending, and the bad argument of each call, by its number."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    return {number: row for number, *row in map(json.loads, lines)}


def keep(path: Path | None, number: int, row: list[str]) -> None:
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps([number, *row]) + "\n")


def row_of(number: int) -> list[str]:
    call = random_call(random.Random(number))
    try:
        ending = ending_of(call)
    except FaultError as fault:
        ending = "fault"
        print(f"{number}: {fault}\n    {call!r}", file=sys.stderr, flush=True)
    return [call.method, ending, call.bad or ""]


def print_table(rows: list[list[str]]) -> None:
    endings = Counter((method, ending) for method, ending, _ in rows)
    print(f"{len(rows)} calls, {sum(not bad for *_, bad in rows)} of them valid\n")
    kinds = ("result", "TypeError", "ValueError", "fault")
    print(f"| method | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for method in sorted({method for method, _ in endings}):
        print(f"| `{method}` | {' | '.join(str(endings[method, kind]) for kind in kinds)} |")
    print(f"| all | {' | '.join(str(sum(n for (_, e), n in endings.items() if e == kind)) for kind in kinds)} |")


if __name__ == "__main__":
    sys.exit(main())
