"""A few seconds of `python -m benchmarks.soak`: good, slow and hostile clients at once.

Too short to say anything of memory; long enough for a good client to be hurt, for a
descriptor or a connection to be left behind, and for a request to be miscounted.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.crowd import raise_descriptor_limit
from benchmarks.hostile import HOSTILE, SLOW
from benchmarks.memory import write_file
from benchmarks.ordinary import ORDINARY
from benchmarks.soak import FILE_BYTES, crowd_of, looker, soak
from benchmarks.soak_record import failures, left_behind, miscounts
from benchmarks.stress_app import FILE_VARIABLE
from tests.integration.conftest import Serve
from tests.integration.server_process import PATIENCE_S

SECONDS = 4.0
WAVE_S = 2.0
WORKERS = 2
MAX_THREADS = 16
COUNTS = {
    **dict.fromkeys(ORDINARY, 3),
    "file-reader": 2,
    "sleeper": 12,
    **dict.fromkeys(SLOW, 5),
    **dict.fromkeys(HOSTILE, 2),
}


def test_good_clients_notice_nothing_of_the_bad_and_nothing_is_left(
    serve: Serve, tmp_path: Path
) -> None:
    raise_descriptor_limit()
    file = tmp_path / "file"
    crc = write_file(file, FILE_BYTES)
    # As many workers before and after: then descriptors can be compared exactly.
    limits = ("--min-workers", str(WORKERS), "--max-workers", str(WORKERS))
    limits += ("--max-threads", str(MAX_THREADS))
    server = serve("benchmarks.stress_app:app", *limits, environ={FILE_VARIABLE: str(file)})
    server.eventually(lambda status: status["idle"] == WORKERS)
    look = looker(server.pid, str(server.runtime / "smart-http" / f"{server.pid}.sock"))

    crowd = crowd_of(server.address, COUNTS, crc, WAVE_S)
    # Threads without work stay for ten seconds; those of streams are too many to be among them.
    spare = WORKERS * MAX_THREADS
    record = soak(crowd, look, SECONDS, 0.5, PATIENCE_S, spare_threads=spare)

    assert list(failures(record)) == []
    assert list(left_behind(record)) == []
    assert list(miscounts(record)) == []
    for tally in [*record.good.values(), *record.bad.values()]:
        assert tally.opened >= tally.wanted
    assert max(look.connections for look in record.looks) >= sum(COUNTS.values()) / 2
    assert max(look.streams for look in record.looks) >= COUNTS["slow-stream-reader"]
    assert record.after is not None
    assert record.after.incidents.get("bad_request", 0) > 0, record.after.incidents
