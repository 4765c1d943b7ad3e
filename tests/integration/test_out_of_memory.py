"""A worker that the kernel kills for want of memory is named as such, and no other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from spm.cgroup import Cgroups
from tests.integration.conftest import Serve
from tests.integration.control_group import ControlGroup
from tests.integration.server_process import APPS, Background, ServerProcess

LIMIT_BYTES = 160 << 20
# Of both versions; what is there is written, memory first: swap may not be limited to less.
LIMITS = {
    "memory.limit_in_bytes": LIMIT_BYTES,
    "memory.max": LIMIT_BYTES,
    "memory.memsw.limit_in_bytes": LIMIT_BYTES,
    "memory.swap.max": 0,
}


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    homes = [
        group.directory
        for group in Cgroups(Path("/proc")).own_memory
        if (group.directory / "memory.stat").exists()
    ]
    try:
        group = ControlGroup(homes[:1], LIMITS, ["memory.limit_in_bytes", "memory.max"])
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield group
    group.remove()


@pytest.fixture
def server(group: ControlGroup, prepare: Serve) -> ServerProcess:
    server = prepare("greedy:app", "--min-workers", "2", "--max-workers", "2", chdir=APPS)
    with group.inside():
        server.launch()
    server.wait_until_ready()
    server.eventually(lambda s: s["idle"] == 2)
    return server


def end_of(server: ServerProcess, pid: int) -> str:
    """Wait until the log says how a worker ended; return that line."""
    log = server.wait_for_log(f"worker {pid} (slot ")
    return next(line for line in log.splitlines() if f"worker {pid} (slot " in line)


def test_the_log_names_the_kernel_s_kill_and_only_that(server: ServerProcess) -> None:
    before = server.workers()
    request = Background(server, "/take")
    assert isinstance(request.result(), Exception), "it got a gigabyte"
    status = server.eventually(lambda s: s["restarts"] == 1 and s["idle"] == 2)
    assert status["lost"] == 1
    (victim,) = set(before) - set(server.workers())
    assert "killed by the kernel: out of memory, 1 requests lost" in end_of(server, victim)

    other = json.loads(server.get("/").text)["pid"]
    os.kill(other, signal.SIGKILL)
    assert "killed by SIGKILL, by somebody else" in end_of(server, other)
    server.eventually(lambda s: s["restarts"] == 2 and s["idle"] == 2)
    assert server.get("/").status == 200
    assert server.log().count("out of memory") == 1
