"""Tests that mostly wait, all those of a module at the same time, each with servers of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.raw_client import RawClient, request
from tests.integration.server_process import APPS, ServerProcess

PATIENCE_S = 90.0  # for a whole test


class Stage(ExitStack):
    """Where one test plays: its servers and its clients, all gone when it is over."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.servers: list[ServerProcess] = []

    def serve(self, *arguments: str, **environ: str) -> ServerProcess:
        """Start a server and wait until it serves."""
        place = self.directory / f"server{len(self.servers)}"
        server = ServerProcess(place, arguments, APPS, environ)
        self.servers.append(server)
        self.callback(server.end)
        return server.start()

    def client(self, server: ServerProcess, buffer: int = 0, source: str = "") -> RawClient:
        """Connect."""
        return self.enter_context(RawClient(server, buffer, source))

    def begin(self, server: ServerProcess, target: str, buffer: int = 0) -> RawClient:
        """Connect and ask for something, but read nothing of it."""
        client = self.client(server, buffer)
        client.send(request(target))
        return client


Play = Callable[[Stage], None]


class SideBySide:
    """The tests of one module: `play = SideBySide()`, `outcomes = play.outcomes`, `@play`.

    outcomes: a fixture, which a module must have under this name.
    """

    def __init__(self) -> None:
        self._plays: dict[str, Play] = {}

        @pytest.fixture(scope="module")
        def outcomes(
            request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
        ) -> Iterator[dict[str, Future[None]]]:
            yield from self._perform(request, tmp_path_factory)

        self.outcomes = outcomes

    def __call__(self, play: Play) -> Callable[[dict[str, Future[None]]], None]:
        """Make a test of a function of a Stage."""
        self._plays[play.__name__] = play

        def test(outcomes: dict[str, Future[None]]) -> None:
            outcomes[play.__name__].result(PATIENCE_S)

        test.__name__ = play.__name__
        return test

    def _perform(
        self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[dict[str, Future[None]]]:
        items: list[Any] = request.session.items
        wanted = [item.originalname for item in items if item.module is request.module]
        names = [name for name in self._plays if name in wanted]
        with ThreadPoolExecutor(len(names)) as threads:
            yield {
                name: threads.submit(_play, self._plays[name], tmp_path_factory.mktemp("stage"))
                for name in names
            }


def _play(play: Play, directory: Path) -> None:
    with Stage(directory) as stage:
        try:
            play(stage)
        except BaseException as error:
            for server in stage.servers:
                error.add_note(server.report())
            raise
