"""A whole manager on a fake machine, driven by the test's clock."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from spm import SPM, SPMS, Readout, Scoreboard
from spm.child import Boot
from spm.scoreboard import COMMAND, DRAIN
from spm.siblings import Inboxes
from tests.fakes.system import NS, FakeSystem, FakeWorker


def never_called() -> NoReturn:
    raise AssertionError("the manager must not import the application")


class FakeServer:
    """SPM and FakeSystem; `queue` is what the kernel holds, `over` that run() would return.

    settings: fields of SPMS; `renewal` besides, for upgrades.
    """

    system: FakeSystem

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.queue = 0
        self.listened = 0
        self.released = 0
        self.over = False
        self.listen_error: Exception | None = None
        renewal = settings.pop("renewal", None)
        settings.setdefault("control_path", str(directory / "control.sock"))
        self.settings = SPMS(**settings)
        self.spm = SPM(
            self.settings,
            boot=never_called,
            listen=self._listen,
            accept_queue=lambda: self.queue,
            release=self._release,
            describe=lambda: {"binds": ["127.0.0.1:8080"], "target": "app:app"},
            renewal=renewal,
            system_factory=self._make_system,
        )

    def _make_system(
        self, boot: Boot, scoreboard: Scoreboard, inboxes: Inboxes, settings: SPMS
    ) -> FakeSystem:
        self.system = FakeSystem(boot, scoreboard, inboxes, settings)
        return self.system

    def _listen(self) -> None:
        if self.listen_error is not None:
            raise self.listen_error
        self.listened += 1

    def _release(self) -> None:
        self.released += 1

    @property
    def now_s(self) -> float:
        return self.system.clock_ns / NS

    def run(self, seconds: float) -> None:
        """Let time pass, or the server end."""
        self.until(lambda: False, seconds, must=False)

    def until(
        self, condition: Callable[[], object], seconds: float = 10.0, *, must: bool = True
    ) -> float:
        """Let time pass until the condition holds; return how long it took."""
        begin_s = self.now_s
        # Every step that handles no news lets time pass, so this comes to an end; the
        # limit is for a manager that ticks without waiting.
        for _ in range(100_000):
            if condition():
                return self.now_s - begin_s
            if self.over or self.now_s - begin_s >= seconds:
                assert not must, f"not within {seconds} s"
                return self.now_s - begin_s
            self.over = self.spm.step()
        raise AssertionError("the manager spins")

    def total(self) -> int:
        return len(self.system.workers)

    def ready(self) -> list[FakeWorker]:
        return self.system.alive("ready")

    def told_to_drain(self) -> list[int]:
        """Return the slots whose worker was told to drain."""
        board = self.system.scoreboard
        return [s for s in range(board.slots) if board.words[board.base(s) + COMMAND] == DRAIN]

    def readout(self) -> Readout:
        return self.spm.readout()


@contextmanager
def serving(**settings: Any) -> Iterator[FakeServer]:
    """A server that has started and brought up its minimum; ended in any case."""
    with not_started(**settings) as server:
        assert server.spm.start()
        server.until(lambda: len(server.ready()) >= server.settings.min_workers)
        yield server


@contextmanager
def not_started(**settings: Any) -> Iterator[FakeServer]:
    """A server before its start; ended in any case."""
    with tempfile.TemporaryDirectory() as directory:
        server = FakeServer(Path(directory), **settings)
        try:
            yield server
        finally:
            server.spm.finish()
            assert not list(Path(directory).iterdir()), "something was left behind"
