"""The script that compares collections in quiet moments with CPython's own."""

from __future__ import annotations

import click
import pytest

from benchmarks.apps import JSON_BODY
from benchmarks.collector import CONNECTIONS, HEAD, Asker, Turn, row
from tests.unit.benchmarks.local_server import OK, answering, served

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(JSON_BODY), JSON_BODY)
MS = 1_000_000


def test_everybody_asks_and_every_answer_is_timed() -> None:
    with served(answering(ANSWER)) as address:
        asker = Asker(address[1], "/")
        for _ in range(3):
            asker.ask()
        asker.close()
    assert len(asker.durations_ns) == 3 * CONNECTIONS
    assert min(asker.durations_ns) > 0


def test_a_wrong_answer_ends_the_run() -> None:
    with served(answering(OK)) as address:
        asker = Asker(address[1], "/")
        with pytest.raises(click.ClickException, match="answered"):
            asker.ask()
        asker.close()


def test_the_table_has_latencies_of_all_turns_and_medians_of_the_rest() -> None:
    turns = [
        Turn([MS] * 98 + [5 * MS, 9 * MS], 0.5, [10_000_000, 30_000_000, 20_000_000], [2.0], 1),
        Turn([MS] * 100, 1.0, [12_000_000, 12_000_000, 12_000_000], [3.0, 4.0], 0),
    ]
    line = row("bursts", "quiet moments", turns)
    assert line.count("|") == HEAD.splitlines()[0].count("|")
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["bursts", "quiet moments", "200", "150"]
    assert cells[4:8] == ["1.00", "1.00", "9.00", "9.00"]
    assert cells[8:] == ["11", "21", "16", "3", "1", "4.0"]
