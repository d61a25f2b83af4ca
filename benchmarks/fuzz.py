"""Random calls of the public methods in great number: ``fuzz.py N`` prints how they ended, method by method.

Each call has a number, from which alone it is made, so that ``fuzz.py 1 --first NUMBER`` repeats one. Faults are
printed as they are found, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

import torch
from random_calls import FaultError, ending_of, random_call

torch.set_num_threads(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", type=int, metavar="N")
    parser.add_argument("--first", type=int, default=0, help="the number of the first call")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no call begins after so many")
    given = parser.parse_args()
    started, endings, valid = time.perf_counter(), Counter[tuple[str, str]](), 0
    for number in range(given.first, given.first + given.calls):
        if time.perf_counter() - started > given.seconds:
            break
        call = random_call(random.Random(number))
        valid += call.bad is None
        try:
            ending = ending_of(call)
        except FaultError as fault:
            ending = "fault"
            print(f"{number}: {fault}\n    {call!r}", file=sys.stderr, flush=True)
        endings[call.method, ending] += 1
    print(f"{endings.total()} calls, {valid} of them valid, {time.perf_counter() - started:.0f} s\n")
    kinds = ("result", "TypeError", "ValueError", "fault")
    print(f"| method | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for method in sorted({method for method, _ in endings}):
        print(f"| `{method}` | {' | '.join(str(endings[method, kind]) for kind in kinds)} |")
    print(f"| all | {' | '.join(str(sum(n for (_, e), n in endings.items() if e == kind)) for kind in kinds)} |")
    return int(any(ending == "fault" for _, ending in endings))


if __name__ == "__main__":
    sys.exit(main())
