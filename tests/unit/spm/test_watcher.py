"""The watcher as a process: forked, heard, replaced, ended; and what the manager makes of it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loader import logs
from spm import Inboxes, Scoreboard
from spm.system import System
from spm.watcher import Tell, Watch, Watcher
from tests.fakes.server import serving

BOUND_S = 30.0


def wait_for_ever(tell: Tell) -> None:
    tell(f"{os.getpid()}")
    time.sleep(BOUND_S)


def descriptors() -> set[str]:
    """Return what this process has open."""
    places = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            places.add(os.readlink(f"/proc/self/fd/{fd}"))
    return places


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


class Rig:
    """A watcher and the system that it reports to."""

    def __init__(self) -> None:
        self.descriptors_before = descriptors()
        self.inboxes = Inboxes(2)
        self.system = System(
            lambda: lambda slot, lifeline, siblings: None,
            Scoreboard(2, 1),
            self.inboxes,
            preload=True,
            stale_ns=10**10,
        )
        self.watchers: list[Watcher] = []
        self.told: list[str] = []

    def watcher(self, watch: Watch | None) -> Watcher:
        self.watchers.append(Watcher(self.system, watch))
        self.watchers[-1].start()
        return self.watchers[-1]

    def until(self, condition: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < deadline_s, self.told
            self.system.wait(0.05)
            for watcher in self.watchers:
                self.told += [news.what for news in watcher.news()]

    def close(self) -> None:
        for watcher in self.watchers:
            watcher.stop()
        self.system.close()
        self.inboxes.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_what_it_tells_is_news(rig: Rig) -> None:
    def watch(tell: Tell) -> None:
        tell("app.py")
        tell("shop/\udcff.py")  # a name that is no text
        time.sleep(BOUND_S)

    rig.watcher(watch)
    rig.until(lambda: len(rig.told) == 2)
    assert rig.told == ["app.py", "shop/\\udcff.py"]


def test_without_anything_to_watch_there_is_none(rig: Rig) -> None:
    before = children()
    watcher = rig.watcher(None)
    assert watcher.news() == []
    assert children() == before
    watcher.stop()


def test_when_it_dies_another_comes_after_a_pause(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = rig.watcher(wait_for_ever)
    rig.until(lambda: rig.told)
    first = int(rig.told[0])
    assert watcher.is_process(first)
    os.kill(first, signal.SIGKILL)
    rig.until(lambda: len(rig.told) == 2)
    second = int(rig.told[1])
    assert watcher.is_process(second)
    assert second != first
    assert "the watcher died (killed by SIGKILL)" in caplog.text
    assert "the next one comes in 1.0 s" in caplog.text


def test_one_that_fails_says_why_and_is_replaced(
    rig: Rig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "flag"

    def watch(tell: Tell) -> None:
        if not flag.exists():
            flag.touch()
            logs.configure()
            raise OSError("OS file watch limit reached")
        wait_for_ever(tell)

    rig.watcher(watch)
    rig.until(lambda: rig.told)
    errors = capfd.readouterr().err
    assert "the watcher failed" in errors
    assert "OSError: OS file watch limit reached" in errors


def test_a_stop_ends_it_and_no_other_comes(rig: Rig) -> None:
    watcher = rig.watcher(wait_for_ever)
    rig.until(lambda: rig.told)
    pid = int(rig.told[0])
    watcher.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    watcher.stop()
    assert watcher.news() == []
    assert not watcher.is_process(pid)


def test_it_ends_when_nobody_hears_it_any_more(rig: Rig) -> None:
    watcher = rig.watcher(wait_for_ever)
    rig.until(lambda: rig.told)
    pid = int(rig.told[0])
    # As if the manager had died: its end is closed and nobody signals anything.
    assert watcher._control is not None
    rig.system.unwatch(watcher._control)
    watcher._control.close()
    watcher._control = None
    rig.until(lambda: not watcher.is_process(pid))


def test_it_has_no_descriptor_of_the_managers(rig: Rig) -> None:
    def watch(tell: Tell) -> None:
        tell(" ".join(descriptors()))
        time.sleep(BOUND_S)

    rig.watcher(watch)
    rig.until(lambda: rig.told)
    ours = descriptors() - rig.descriptors_before
    assert len([place for place in ours if place.startswith("socket:")]) > 4
    theirs = set(rig.told[0].split()) - rig.descriptors_before
    assert not {place for place in theirs & ours if not place.startswith("/")}


# --- the manager --------------------------------------------------------------------------


def test_a_change_is_a_reload(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smart_http")
    with serving() as server:
        server.system.change_source("app.py")
        server.until(lambda: server.readout().generation == 2)
        server.until(lambda: server.readout().reload == "idle")
    assert "reloading: app.py changed" in caplog.text


def test_a_change_during_a_reload_is_another_one() -> None:
    with serving() as server:
        server.system.load_s = 1.0
        server.system.change_source("app.py")
        server.run(0.3)
        server.system.change_source("app.py")
        server.until(lambda: server.readout().generation == 3)


def test_a_change_during_a_stop_is_none() -> None:
    with serving() as server:
        only = server.ready()[0]
        only.begin()
        server.system.send_signal(signal.SIGTERM)
        server.run(0.1)
        server.system.change_source("app.py")
        server.run(0.5)
        assert server.readout().generation == 1
        only.end()
        server.run(5)
        assert server.over
