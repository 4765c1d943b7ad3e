"""The slow clients of `slow_clients`, in a process of their own.

    python -m benchmarks.herd PORT PER_SECOND KIND=COUNT...

PER_SECOND of them come in a second, until all are there.

Says how they are in one line of JSON for each line that it reads; ends at end-of-file.
It looks at its sockets only once in ten milliseconds, and is nicer than whoever measures.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final

from benchmarks.cores import pinned
from benchmarks.crowd import Crowd, raise_descriptor_limit
from benchmarks.hostile import SLOW
from benchmarks.servers import ROOT

NICENESS: Final = 10
_FOR_EVER_S: Final = 1e9


@dataclass(frozen=True, slots=True)
class Herd:
    """The process, as seen from the one that started it."""

    ask: IO[str]
    answers: IO[str]

    def tallies(self) -> dict[str, dict[str, int]]:
        """Return what each kind has done until now. Raises: EOFError if it has ended."""
        self.ask.write("\n")
        self.ask.flush()
        line = self.answers.readline()
        if not line:
            raise EOFError("the slow clients have ended")
        found: dict[str, dict[str, int]] = json.loads(line)
        return found


@contextmanager
def running(
    port: int, counts: Mapping[str, int], per_second: float, core: int | None
) -> Iterator[Herd]:
    """Let slow clients loose on 127.0.0.1:`port` inside the block."""
    words = [f"{name}={count}" for name, count in counts.items()]
    with pinned(core):
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.herd", str(port), str(per_second), *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
    with process:  # whose end closes both pipes and waits
        assert process.stdin is not None
        assert process.stdout is not None
        yield Herd(process.stdin, process.stdout)


def main() -> None:
    """Be slow until the end of standard input."""
    os.nice(NICENESS)
    raise_descriptor_limit()
    port, per_second, *words = sys.argv[1:]
    crowd = Crowd(("127.0.0.1", int(port)), starts_per_s=float(per_second), batched=True)
    for word in words:
        name, _, count = word.partition("=")
        crowd.add(SLOW[name], int(count))
    crowd.shuffle()
    over = False

    def answer() -> None:
        nonlocal over
        over = not os.read(sys.stdin.fileno(), 4096)
        if not over:
            tallies = {name: _numbers(tally) for name, tally in crowd.tallies.items()}
            print(json.dumps(tallies), flush=True)

    crowd.watch(sys.stdin.fileno(), answer)
    crowd.run_for(_FOR_EVER_S, lambda: over)
    crowd.close()


def _numbers(tally: object) -> dict[str, int]:
    assert dataclasses.is_dataclass(tally)
    values = ((field.name, getattr(tally, field.name)) for field in dataclasses.fields(tally))
    return {name: value for name, value in values if isinstance(value, int)}


if __name__ == "__main__":
    main()
