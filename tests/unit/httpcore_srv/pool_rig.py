"""A pool, its threads and its lock in a test's hands."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

from httpcore_srv.thread_pool import ThreadPool

BOUND_S = 10.0
LONG_S = 600.0  # an idle time that does not pass during a test
SHORT_S = 0.01


class WatchedLock:
    """A lock, with which a test can wait for what it guards to become so."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self.entered_by: list[threading.Thread] = []
        self.before_entry: tuple[threading.Thread, Callable[[], None]] | None = None

    def __enter__(self) -> None:
        if self.before_entry is not None and self.before_entry[0] is threading.current_thread():
            before, self.before_entry = self.before_entry[1], None
            before()
        self._condition.acquire()
        self.entered_by.append(threading.current_thread())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._condition.notify_all()
        self._condition.release()

    def wait_for(self, what: Callable[[], bool]) -> None:
        with self._condition:
            assert self._condition.wait_for(what, BOUND_S), "it never became so"


class Threads:
    """Starts threads and knows them; or cannot."""

    def __init__(self) -> None:
        self.started: list[threading.Thread] = []
        self.names: list[str] = []
        self.exhausted = False
        self.hold_back: threading.Event | None = None  # new threads get no core until it is set

    def start(self, target: Callable[[], None], name: str) -> None:
        if self.exhausted:
            raise RuntimeError("can't start new thread")
        if self.hold_back is not None:
            target = self._late(target, self.hold_back)
        thread = threading.Thread(target=target, name=name, daemon=True)
        self.started.append(thread)
        self.names.append(name)
        thread.start()

    @staticmethod
    def _late(target: Callable[[], None], go_on: threading.Event) -> Callable[[], None]:
        def run() -> None:
            assert go_on.wait(BOUND_S)
            target()

        return run

    def join(self) -> None:
        for thread in self.started:
            thread.join(BOUND_S)
            assert not thread.is_alive(), f"{thread.name} did not leave"


class Request:
    """A job that ends when the test says so, as a request does.

    end_as: what its thread calls then, with the lock held; by default `ended`.
    """

    def __init__(self, pool: ThreadPool, end_as: Callable[[], None] | None = None) -> None:
        self._pool = pool
        self._end_as = end_as or pool.ended
        self.begun: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
        self.has_ended = False
        self._may_end = threading.Event()

    def __call__(self) -> None:
        self.begun.put(threading.current_thread())
        assert self._may_end.wait(BOUND_S), "a request that nobody ended"
        with self._pool.lock:
            self._end_as()
            self.has_ended = True

    def wait_until_begun(self) -> threading.Thread:
        return self.begun.get(timeout=BOUND_S)

    def end(self) -> None:
        self._may_end.set()

    def end_as(self, call: Callable[[], None]) -> None:
        """Have its thread make another call at its end, from now on."""
        self._end_as = call


class Rig:
    """A pool, its threads and its lock."""

    def __init__(self, min_threads: int, idle_s: float) -> None:
        self.threads = Threads()
        self.pool = ThreadPool(min_threads, 4, idle_s, 2, self.threads.start)
        self.lock = WatchedLock()
        self.pool.lock = self.lock  # type: ignore[assignment]
        self.requests: list[Request] = []

    def submit(self, end_as: Callable[[], None] | None = None) -> Request:
        request = Request(self.pool, end_as)
        self.requests.append(request)
        assert self.pool.submit(request)
        return request

    def run_aside(self) -> Request:
        """Run what a new leader runs: the loop, and at its end a request that was counted."""

        def end() -> None:
            self.pool.busy += 1
            self.pool.ended()

        request = Request(self.pool, end)
        self.requests.append(request)
        self.pool.run_aside(request)
        return request

    def run_together(self, count: int) -> None:
        """Run requests to their end, each on a thread of its own."""
        requests = [self.submit() for _ in range(count)]
        for request in requests:
            request.wait_until_begun()
        for request in requests:
            request.end()

    def wait_for_idle(self, count: int) -> None:
        self.lock.wait_for(lambda: self.pool.idle == count)

    def wait_until_down(self, count: int) -> None:
        """Wait until so many idle threads lie on the stack: the last act before they wait."""
        self.lock.wait_for(lambda: len(self.pool._stack) == count)

    def close(self) -> None:
        for request in self.requests:
            request.end()
        self.pool.close()
        self.threads.join()
