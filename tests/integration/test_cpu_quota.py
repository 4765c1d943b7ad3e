"""A server in a control group with a CPU quota knows what it may use, and when that is used up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spm.cgroup import Cgroups
from tests.integration.conftest import Serve
from tests.integration.control_group import ControlGroup
from tests.integration.keep_alive_clients import KeepAliveClients

# Half a core. Of both versions; what is there is written.
LIMITS = {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 50_000, "cpu.max": "50000 100000"}


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    found = Cgroups(Path("/proc")).cpu
    own = {version: [g for g in found if g.version == version][:1] for version in (1, 2)}
    homes = {d for g in own[1] or own[2] for d in (g.directory, g.usage) if d is not None}
    try:
        group = ControlGroup(sorted(homes), LIMITS, ["cpu.cfs_quota_us", "cpu.max"])
    except OSError as error:
        pytest.skip(f"no CPU cgroup can be made here: {error}")
    yield group
    group.remove()


def test_a_quota_that_is_used_up_is_told(group: ControlGroup, prepare: Serve) -> None:
    server = prepare("app:app", "--min-workers", "1", "--max-workers", "4")
    with group.inside():
        server.launch()
    server.wait_until_ready()
    status = server.eventually(lambda s: s["machine"]["cpu_throttled"] is not None)
    assert status["machine"]["cores"] == 1
    with KeepAliveClients(server.address, 4, "/json", pause_s=0.0) as clients:
        # A full half of a core, wherever the machine's other cores idle.
        server.eventually(
            lambda s: s["machine"]["cpu"] > 0.9 and s["machine"]["cpu_throttled"] > 0.5
        )
        assert server.status()["total"] == 1, "one more would not have got any of it"
    assert clients.failures == []
