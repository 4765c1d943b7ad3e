"""What earlier runs have left behind: our ratios over time, for each scenario."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.report import NOTHING, table
from benchmarks.sample import FIGURES, Sample
from benchmarks.servers import OURS, SERVERS
from benchmarks.summary import merit_of, ratios

_FORMATS: Final = (1, 2)
_PEERS: Final = tuple(server.name for server in SERVERS if server.name != OURS)


class FormatError(Exception):
    """A file that is not the result of a run of this suite."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run as its file has it."""

    began: str
    commit: str
    rounds: int
    samples: tuple[Sample, ...]


def read(path: Path) -> Run:
    """Read what a run has written.

    Raises: FormatError if the file is none of the known formats; OSError.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["format"]
        if version not in _FORMATS:
            raise FormatError(f"format {version} is not known")
        sample = _first_format if version == 1 else _second_format
        return Run(
            data["began"],
            data["machine"]["commit"],
            data["plan"]["rounds"],
            tuple(sample(fields) for fields in data["samples"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{type(error).__name__}: {error}") from error


def as_text(directory: Path, scenarios: Collection[str] = ()) -> str:
    """Return our ratios over time as tables, one for each scenario; all of them if none is named.

    Only runs in which this server and a peer were measured appear. A file that cannot be read
    has a line that says so.
    """
    runs, unread = [], []
    for path in sorted(directory.glob("[0-9]*.json")):
        try:
            runs.append(read(path))
        except (FormatError, OSError) as error:
            unread.append(f"- {path.name} skipped: {error}")
    names = dict.fromkeys(sample.scenario for run in runs for sample in run.samples)
    chosen = [name for name in names if not scenarios or name in scenarios]
    parts = [_over_time(name, runs) for name in chosen]
    text = "\n\n".join(part for part in [*parts, "\n".join(unread)] if part)
    return f"{text or 'no runs'}\n"


def _over_time(scenario: str, runs: Sequence[Run]) -> str:
    body = []
    for run in sorted(runs, key=lambda run: run.began):
        cells = [_cell(run, scenario, peer) for peer in _PEERS]
        if any(cell != NOTHING for cell in cells):
            body.append([run.began[:16].replace("T", " "), run.commit, str(run.rounds), *cells])
    if not body:
        return ""
    head = ["run", "commit", "rounds", *(f"/ {peer}" for peer in _PEERS)]
    title = f"## {scenario}: {FIGURES[merit_of(scenario)].head}, {OURS} over each peer"
    return f"{title}\n\n{table(head, body)}"


def _cell(run: Run, scenario: str, peer: str) -> str:
    spread = ratios(run.samples, scenario, OURS, peer)
    return f"{spread.median:.2f}" if spread else NOTHING


def _first_format(fields: dict[str, Any]) -> Sample:
    """Return the sample of a run that knew rates only."""
    measured = fields["measurement"] or {}
    figures = {name: measured[name] for name in ("rate", "p50_us", "p99_us") if name in measured}
    if measured:
        figures |= {name: fields[name] for name in ("cpu_us", "memory_mb", "load_share")}
    return Sample(
        fields["scenario"], fields["round"], fields["server"], figures, failure=fields["failure"]
    )


def _second_format(fields: dict[str, Any]) -> Sample:
    return Sample(**{**fields, "notes": tuple(fields["notes"])})
