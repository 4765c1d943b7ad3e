"""Servers for the tests: each is ended, and looked for afterwards, whatever the test did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.server_process import Hold, ServerProcess

Serve = Callable[..., ServerProcess]


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Serve]:
    """Make a server that is not started yet: `prepare("app:app", "--min-workers", "2")`."""
    yield from _servers(tmp_path)


@pytest.fixture
def serve(prepare: Serve) -> Serve:
    """Start a server and wait until it serves: `serve("app:app", "--min-workers", "2")`."""
    return lambda *arguments, **more: prepare(*arguments, **more).start()


@pytest.fixture(scope="module")
def serve_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start a server that all tests of a module ask."""
    servers = _servers(tmp_path_factory.mktemp("server"))
    prepare = next(servers)
    yield lambda *arguments, **more: prepare(*arguments, **more).start()
    next(servers, None)


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """A place where a request stands still; `held:app` finds it in the environment."""
    hold = Hold(tmp_path / "hold")
    yield hold
    hold.close()


def _servers(directory: Path) -> Iterator[Serve]:
    servers: list[ServerProcess] = []

    def prepare(*arguments: str, **more: object) -> ServerProcess:
        place = directory / f"server{len(servers)}"
        servers.append(ServerProcess(place, arguments, **more))  # type: ignore[arg-type]
        return servers[-1]

    yield prepare
    problems = []
    for server in servers:
        try:
            server.end()
        except AssertionError as problem:
            problems.append(str(problem))
        if server.log_file.exists():
            print(f"--- {server.log_file}\n{server.log()}")
    assert not problems, "\n".join(problems)
