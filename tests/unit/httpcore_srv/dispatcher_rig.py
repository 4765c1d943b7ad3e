"""A dispatcher with a real loop and a real pool in a test's hands."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable

from httpcore_srv.dispatcher import Dispatcher
from httpcore_srv.event_loop import EventLoop
from httpcore_srv.experience import QUICK_NS
from httpcore_srv.sentinel import PATIENCE
from httpcore_srv.thread_pool import ThreadPool
from tests.fakes.worker import FakeClock, FakeSlot

BOUND_S = 10.0
MAX_STREAMS = 2


class FakeStream:
    """A request whose application does what the test says; remembers what became of it."""

    def __init__(
        self,
        app: Callable[[], None] = lambda: None,
        *,
        fails: bool = False,
        trace: list[str],
        kind: int = 1,
    ) -> None:
        self.kind = kind
        self._app = app
        self._fails = fails
        self._trace = trace
        self.revocable = True  # it has not begun to respond
        self.holds = False  # it holds its response
        self.gathers = True
        self.ran_on: threading.Thread | None = None
        self.handed_back: queue.SimpleQueue[str] = queue.SimpleQueue()

    def respond(self) -> bool:
        self.ran_on = threading.current_thread()
        self._trace.append("respond")
        self._app()
        return self._fails

    def responded(self) -> bool:
        self._trace.append("responded")
        return self.holds

    def send_held(self) -> bool:
        self._trace.append("send_held")
        return False

    def stop_gathering(self) -> None:
        self.gathers = False

    def revoke(self) -> bool:
        self._trace.append("revoke")
        return self.revocable

    def hand_back(self) -> None:
        self._trace.append("hand_back")
        self.handed_back.put("handed back")

    def wait_until_handed_back(self) -> None:
        self.handed_back.get(timeout=BOUND_S)


class Rig:
    """A dispatcher with a real loop and a real pool; the sentinel looks when told to."""

    def __init__(self, baton: deque[object] | None = None) -> None:
        self.clock = FakeClock()
        self.loop = EventLoop(self.clock)
        if baton is not None:
            self.loop.baton = baton
        self.started: list[threading.Thread] = []
        self.pool = ThreadPool(1, 4, 600.0, MAX_STREAMS, self._start)
        self.slot = FakeSlot()
        self.trace: list[str] = []
        self.freed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.dispatcher = Dispatcher(self.loop, self.pool, self.slot, self._freed, self._lead)
        self.sentinel = self.dispatcher.sentinel
        self.sentinel.cpu_ns = self.clock  # the process has no time to spare

    def _start(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self.started.append(thread)
        thread.start()

    def _lead(self) -> None:
        self.loop.run()

    def _freed(self) -> None:
        self.trace.append("freed")
        self.freed.put(self.pool.lock.acquire(timeout=BOUND_S))
        self.pool.lock.release()

    def stream(
        self, app: Callable[[], None] = lambda: None, *, fails: bool = False, kind: int = 1
    ) -> FakeStream:
        return FakeStream(app, fails=fails, trace=self.trace, kind=kind)

    def run(
        self, app: Callable[[], None] = lambda: None, *, fails: bool = False, kind: int = 1
    ) -> bool:
        return self.dispatcher.run(self.stream(app, fails=fails, kind=kind))

    def run_pooled(self, duration_ns: int = 0, *, fails: bool = False, kind: int = 1) -> None:
        """Run one request through the pool, to its end."""
        stream = self.stream(lambda: self.clock.advance(duration_ns / 1e9), fails=fails, kind=kind)
        assert not self.dispatcher.run(stream)
        stream.wait_until_handed_back()
        assert self.freed.get(timeout=BOUND_S)

    def get_stuck(self) -> None:
        """What an application does that is slow: the sentinel comes in the middle of it."""
        self.clock.advance(QUICK_NS / 1e9)
        assert any(self.sentinel.look() for _ in range(PATIENCE + 1))

    def counters(self) -> tuple[int, int, int, int]:
        slot = self.slot
        return slot.begun_count, slot.inline_count, slot.pooled_count, slot.errors

    def close(self) -> None:
        self.loop.stop()
        self.pool.close()
        for thread in self.started:
            thread.join(BOUND_S)
            assert not thread.is_alive(), f"{thread.name} did not leave"
        self.loop.close()


class Contested(deque[object]):
    """The sentinel's thread takes the baton and is then not scheduled for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = threading.Event()
        self.go_on = threading.Event()

    def pop(self) -> object:  # type: ignore[override]
        item = super().pop()
        if threading.current_thread().name == "looking":
            self.taken.set()
            assert self.go_on.wait(BOUND_S)
        return item
