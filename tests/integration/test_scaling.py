"""Workers come with the load and go with it; connections survive their coming and going."""

from __future__ import annotations

import threading
from typing import Any

from tests.integration.conftest import Serve
from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.server_process import ServerProcess

STATES = ("busy", "idle", "kill_pending", "starting", "wedged")


class Watch:
    """Looks at the readout all the time, and keeps what it saw."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: list[dict[str, Any]] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            self.seen.append(self._server.status())


def test_six_workers_under_load_and_one_when_it_is_quiet(serve: Serve) -> None:
    limits = ("--min-workers", "1", "--max-workers", "6", "--max-threads", "2")
    server = serve("app:app", *limits)
    load = KeepAliveClients(server.address, 12, "/sleep?ms=200", pause_s=0.0)
    with Watch(server) as watch, load as clients:
        server.eventually(lambda s: s["total"] == 6 and s["starting"] == 0)
        clients.wait_for(60)
        clients.rest()  # the connections stay: they must move as their workers leave
        server.eventually(lambda s: s["total"] == 1, within_s=60)
        server.eventually(lambda s: s["connections"] == 12)
        clients.go_on()
        clients.wait_for(24)
    assert clients.failures == []
    assert clients.closings == []
    assert clients.opened == 12
    status = server.eventually(lambda s: s["requests"] >= clients.answers)
    assert status["requests"] == clients.answers
    assert (status["restarts"], status["lost"], status["errors"]) == (0, 0, 0)
    for seen in watch.seen:
        assert sum(seen[state] for state in STATES) == seen["total"] == len(seen["workers"])
        assert 1 <= seen["total"] <= 12
        assert seen["total"] - seen["kill_pending"] <= 6
    totals = [seen["requests"] for seen in watch.seen]
    assert totals == sorted(totals)
    assert any(seen["busy_threads"] >= 11 for seen in watch.seen)


def test_a_worker_is_not_added_for_load_that_one_can_carry(serve: Serve) -> None:
    server = serve("app:app", "--max-workers", "4", "--max-threads", "32")
    with KeepAliveClients(server.address, 8, "/sleep?ms=50", pause_s=0.05) as clients:
        clients.wait_for(200)
        assert server.status()["total"] == 1
    assert clients.failures == []


def test_a_crowd_that_arrives_at_once_is_served_to_the_last(serve: Serve) -> None:
    limits = ("--min-workers", "1", "--max-workers", "4", "--max-threads", "2")
    server = serve("app:app", *limits)
    with KeepAliveClients(server.address, 200, "/sleep?ms=5", pause_s=0.2) as clients:
        clients.wait_for(800)
    assert clients.failures == []
    assert clients.opened == 200
    status = server.eventually(lambda s: s["requests"] >= clients.answers)
    assert status["requests"] == clients.answers
