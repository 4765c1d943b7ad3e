"""RevocableOutbox: who is first, the thread that responds or the leader that gives it up."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from httpcore_srv.errors import PeerGone
from httpcore_srv.outbox import RevocableOutbox
from tests.fakes.worker import BOUND_S
from tests.unit.httpcore_srv.outbox_rig import LARGE, HeldSocket, OutboxRig, a_file, is_open


@pytest.fixture
def rig() -> Iterator[OutboxRig]:
    rig = OutboxRig(RevocableOutbox)
    yield rig
    rig.close()


def revocable(rig: OutboxRig) -> RevocableOutbox:
    assert isinstance(rig.outbox, RevocableOutbox)
    return rig.outbox


USES: dict[str, Callable[[RevocableOutbox], None]] = {
    "send": lambda outbox: outbox.send(b"response"),
    "finish": lambda outbox: outbox.finish(b"response"),
    "nothing": lambda outbox: outbox.finish(b""),
    "hint": lambda outbox: outbox.hint(b"response"),
}
RESPONSES = [use for use in USES if use != "hint"]


# -- one after the other -----------------------------------------------------------------------


@pytest.mark.parametrize("use", USES)
def test_after_it_was_taken_nothing_can_be_sent(rig: OutboxRig, use: str) -> None:
    assert revocable(rig).revoke()
    with pytest.raises(PeerGone, match="took too long"):
        USES[use](revocable(rig))
    assert rig.read_all() == b""


def test_after_it_was_taken_no_file_can_be_sent_and_none_is_left_open(
    rig: OutboxRig, tmp_path: Path
) -> None:
    assert revocable(rig).revoke()
    fd = a_file(tmp_path / "file", b"content")
    with pytest.raises(PeerGone):
        rig.outbox.finish_file(b"head", fd, 0, 7)
    assert not is_open(fd)
    assert rig.outbox.items == []


@pytest.mark.parametrize("use", RESPONSES)
def test_a_response_that_has_begun_is_its_threads(rig: OutboxRig, use: str) -> None:
    USES[use](revocable(rig))
    assert not revocable(rig).revoke()
    rig.outbox.send(b" and more")
    assert rig.read_all().endswith(b" and more")


def test_a_file_that_was_given_is_a_response_too(rig: OutboxRig, tmp_path: Path) -> None:
    rig.outbox.finish_file(b"head", a_file(tmp_path / "file", b"content"), 0, 7)
    assert not revocable(rig).revoke()
    rig.drain()
    assert rig.read_all() == b"headcontent"


@pytest.mark.parametrize("full", [False, True])
def test_a_hint_is_no_response(rig: OutboxRig, full: bool) -> None:
    filled = rig.fill() if full else 0
    rig.outbox.hint(b"hint")
    assert revocable(rig).revoke()
    rig.read(filled)
    assert rig.read_all() == (b"" if full else b"hint")


def test_a_hint_amid_a_response_does_not_undo_its_beginning(rig: OutboxRig) -> None:
    rig.outbox.send(b"response")
    rig.outbox.hint(b"hint")
    assert not revocable(rig).revoke()


def test_each_request_begins_anew(rig: OutboxRig) -> None:
    for _ in range(3):
        revocable(rig).renew()
        rig.outbox.send(b"x")
        rig.outbox.finish(b"y")
        assert not revocable(rig).revoke()
    revocable(rig).renew()
    assert revocable(rig).revoke()
    assert rig.read_all() == b"xyxyxy"


def test_it_is_taken_for_good(rig: OutboxRig) -> None:
    for _ in range(2):
        assert revocable(rig).revoke()
    with pytest.raises(PeerGone):
        rig.outbox.finish(b"x")
    with pytest.raises(PeerGone):
        rig.outbox.send(b"x")
    assert rig.read_all() == b""


# -- at the same moment --------------------------------------------------------------------------


class Responding(threading.Thread):
    """A thread in the middle of a send, which the test holds up."""

    def __init__(self, rig: OutboxRig, use: Callable[[RevocableOutbox], None]) -> None:
        super().__init__(daemon=True)
        self.held = HeldSocket(rig.sock)
        self.outbox = RevocableOutbox(self.held, rig.outbox._terms, rig._step_aside)  # type: ignore[arg-type]
        self.gone = False
        self._use = use
        self.start()
        assert self.held.entered.wait(BOUND_S)

    def run(self) -> None:
        try:
            self._use(self.outbox)
        except PeerGone:
            self.gone = True

    def finish(self) -> None:
        """Let the send take place, and the thread end."""
        self.held.go_on.set()
        self.join(BOUND_S)
        assert not self.is_alive()


@pytest.mark.parametrize("use", ["send", "finish"])
def test_a_response_that_goes_out_this_very_moment_is_not_waited_for(
    rig: OutboxRig, use: str
) -> None:
    thread = Responding(rig, USES[use])
    assert not thread.outbox.revoke()
    thread.finish()
    assert not thread.gone
    assert not thread.outbox.revoke()
    assert rig.read_all() == b"response"
    thread.outbox.close()


def test_a_hint_that_goes_out_this_very_moment_only_puts_it_off(rig: OutboxRig) -> None:
    thread = Responding(rig, USES["hint"])
    assert not thread.outbox.revoke()
    thread.finish()
    assert not thread.gone
    assert thread.outbox.revoke()
    assert rig.read_all() == b"response"
    thread.outbox.close()


def test_a_thread_that_waits_for_its_client_keeps_the_response(rig: OutboxRig) -> None:
    revoked: list[bool] = []
    rig.on_aside = lambda: revoked.append(revocable(rig).revoke())
    reader = rig.reader()
    rig.outbox.send(LARGE)
    assert revoked == [False]
    assert reader.everything() == LARGE


def test_a_hint_that_waits_for_its_client_keeps_it_too(rig: OutboxRig) -> None:
    # A part of it is out: what the server would say now would be read as the rest.
    revoked: list[bool] = []
    rig.on_aside = lambda: revoked.append(revocable(rig).revoke())
    reader = rig.reader()
    rig.outbox.hint(LARGE)
    assert revoked == [False]
    assert revocable(rig).revoke()
    assert reader.everything() == LARGE


def test_a_response_that_goes_to_disk_keeps_it_too(rig: OutboxRig) -> None:
    revoked: list[bool] = []
    rig.store.limit(0)
    rig.store.make = tempfile.TemporaryFile
    rig.on_aside = lambda: revoked.append(revocable(rig).revoke())
    rig.outbox.finish(LARGE)
    assert revoked == [False]
    reader = rig.reader()
    rig.drain()
    assert reader.everything() == LARGE


def test_of_many_races_each_has_one_winner() -> None:
    for _ in range(200):
        rig = OutboxRig(RevocableOutbox)
        outbox = revocable(rig)
        together = threading.Barrier(2)
        gone: list[bool] = []

        def respond(
            outbox: RevocableOutbox = outbox,
            together: threading.Barrier = together,
            gone: list[bool] = gone,
        ) -> None:
            together.wait()
            try:
                outbox.finish(b"response")
            except PeerGone:
                gone.append(True)

        thread = threading.Thread(target=respond)
        thread.start()
        together.wait()
        taken = outbox.revoke()
        thread.join(BOUND_S)
        assert gone == ([True] if taken else [])
        assert rig.read_all() == (b"" if taken else b"response")
        rig.close()
