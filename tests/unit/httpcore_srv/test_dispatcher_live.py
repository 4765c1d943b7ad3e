"""Live runs: requests whose bodies are still coming, and the places aside kept for them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

import pytest

from httpcore_srv.dispatcher import LiveRun
from tests.unit.httpcore_srv.dispatcher_rig import BOUND_S, MAX_STREAMS, FakeStream, Rig

Act = Callable[[], object]


class Upload(FakeStream):
    """A request with a body on its way; its thread does what the test says."""

    run: LiveRun

    def __init__(self, rig: LiveRig) -> None:
        super().__init__(self._serve, trace=rig.trace)
        self._acts: queue.SimpleQueue[Act | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.begun = False

    def begin_live(self, run: LiveRun) -> None:
        self.begun = True
        self.run = run

    def do(self, act: Act) -> None:
        """Have its thread do something."""
        self._acts.put(act)
        self._done.get(timeout=BOUND_S)

    def end(self) -> None:
        self._acts.put(None)

    def _serve(self) -> None:
        while (act := self._acts.get(timeout=BOUND_S)) is not None:
            self._done.put(act())


class LiveRig(Rig):
    """A rig in whose pool uploads run."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[Upload] = []

    def upload(self) -> Upload:
        upload = Upload(self)
        assert self.dispatcher.run_live(upload)
        self.uploads.append(upload)
        upload.do(lambda: None)  # it runs
        return upload

    def counts(self) -> tuple[int, int, int]:
        """Return how many threads are busy, aside, and may go aside."""
        return self.pool.busy, self.pool.streams, self.pool.promised

    def close(self) -> None:
        for upload in self.uploads:
            upload.end()
        super().close()


@pytest.fixture
def rig() -> Iterator[LiveRig]:
    rig = LiveRig()
    yield rig
    rig.close()


def test_an_upload_is_busy_until_it_waits_and_again_when_its_body_has_come(rig: LiveRig) -> None:
    upload = rig.upload()
    assert rig.counts() == (1, 0, 1)
    upload.do(upload.run.wait_began)
    assert rig.counts() == (0, 1, 0)
    assert (rig.slot.busy_count, rig.slot.streams) == (0, 1)
    upload.do(lambda: upload.run.wait_ended(5))
    upload.do(upload.run.wait_began)  # once more, and nothing changes
    assert rig.counts() == (0, 1, 0)
    upload.do(upload.run.body_came)
    assert rig.counts() == (1, 0, 0)
    assert (rig.slot.busy_count, rig.slot.streams) == (1, 0)
    upload.end()
    upload.wait_until_handed_back()
    assert rig.counts() == (0, 0, 0)


def test_an_upload_that_never_waits_gives_its_place_back(rig: LiveRig) -> None:
    upload = rig.upload()
    upload.do(upload.run.body_came)
    assert rig.counts() == (1, 0, 0)


@pytest.mark.parametrize("waited", [True, False])
def test_an_upload_that_ends_before_its_body_gives_its_place_back(
    rig: LiveRig, waited: bool
) -> None:
    upload = rig.upload()
    if waited:
        upload.do(upload.run.wait_began)
    upload.end()
    upload.wait_until_handed_back()
    assert rig.counts() == (0, 0, 0)
    assert rig.slot.streams == 0
    upload.run.wait_began()  # another thread of the application reads on
    upload.run.body_came()
    assert rig.counts() == (0, 0, 0)


def test_a_place_that_is_kept_is_nobody_elses(rig: LiveRig) -> None:
    uploads = [rig.upload() for _ in range(MAX_STREAMS)]
    late = Upload(rig)
    assert not rig.dispatcher.run_live(late)
    assert not late.begun
    with rig.pool.lock:
        assert not rig.pool.step_aside()
    for upload in uploads:
        upload.do(upload.run.wait_began)
    assert rig.counts() == (0, MAX_STREAMS, 0)


def test_without_a_thread_nothing_is_begun_and_no_place_kept(
    rig: LiveRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.pool, "submit", lambda job: False)
    late = Upload(rig)
    assert not rig.dispatcher.run_live(late)
    assert not late.begun
    assert rig.counts() == (0, 0, 0)


def test_the_time_of_a_wait_is_not_the_runs(rig: LiveRig) -> None:
    upload = rig.upload()
    began_ns = upload.run.began_ns
    upload.do(upload.run.wait_began)
    assert upload.run.waiting
    upload.do(lambda: upload.run.wait_ended(1000))
    assert not upload.run.waiting
    assert upload.run.began_ns == began_ns + 1000


@pytest.mark.parametrize("waited", [True, False])
def test_an_upload_may_be_written_off_and_counts_no_more(rig: LiveRig, waited: bool) -> None:
    upload = rig.upload()
    if waited:
        upload.do(upload.run.wait_began)
        upload.do(lambda: upload.run.wait_ended(1))
    assert rig.dispatcher.write_off(upload)
    assert rig.counts() == (0, 0, 0)
    assert rig.pool.written_off == 1
    upload.do(upload.run.wait_began)
    assert rig.counts() == (0, 0, 0)


def test_a_lasting_response_takes_the_place_that_was_kept(rig: LiveRig) -> None:
    upload = rig.upload()
    rig.dispatcher.move_aside(upload)
    assert rig.counts() == (0, 1, 0)
