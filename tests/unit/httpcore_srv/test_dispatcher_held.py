"""Dispatcher: responses that are held for those of the requests behind them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from httpcore_srv.dispatcher import HOLD_NS, UNCALM
from httpcore_srv.experience import QUICK_NS
from httpcore_srv.sentinel import ALERT_NS
from tests.unit.httpcore_srv.dispatcher_rig import BOUND_S, FakeStream, Rig


class Named(FakeStream):
    """A stream that holds what it responds, and says by its name what was sent."""

    def __init__(self, rig: Rig, name: str, took_ns: int = 0, *, rests: int = 0) -> None:
        super().__init__(lambda: rig.clock.advance(took_ns / 1e9), trace=[])
        self.holds = True
        self.name = name
        self.rests = rests  # how often not all of it can be sent
        self._sent = rig.trace

    def send_held(self) -> bool:
        self._sent.append(self.name)
        self.rests -= 1
        return self.rests >= 0


class HoldingRig(Rig):
    def __init__(self) -> None:
        super().__init__()
        self.dispatcher._held_ns = self.clock()

    def hold(self, name: str, took_ns: int = 0, *, rests: int = 0) -> Named:
        """Run a request inline whose response is held."""
        stream = Named(self, name, took_ns, rests=rests)
        assert not self.dispatcher.run(stream)
        return stream

    def sent(self) -> str:
        """Return what was sent since this was asked last, in its order."""
        sent = "".join(self.trace)
        self.trace.clear()
        return sent


@pytest.fixture
def rig() -> Iterator[HoldingRig]:
    rig = HoldingRig()
    yield rig
    rig.close()


def test_what_is_held_is_sent_in_order_and_once(rig: HoldingRig) -> None:
    for name in "abc":
        rig.hold(name)
    assert rig.sent() == ""
    rig.dispatcher.serve_out()
    assert rig.sent() == "abc"
    rig.dispatcher.serve_out()
    assert rig.sent() == ""


def test_a_request_has_ended_when_its_response_was_sent(rig: HoldingRig) -> None:
    for name in "abc":
        rig.hold(name)
    assert rig.counters() == (3, 0, 0, 0), "a worker killed now would have lost three requests"
    rig.dispatcher.serve_out()
    assert rig.counters() == (3, 3, 0, 0)
    rig.dispatcher.serve_out()
    assert rig.counters() == (3, 3, 0, 0)


def test_one_that_failed_counts_as_an_error_at_once(rig: HoldingRig) -> None:
    stream = Named(rig, "a")
    stream._fails = True
    rig.dispatcher.run(stream)
    assert rig.counters() == (1, 0, 0, 1)


def test_nothing_is_held_longer_than_for_a_moment_if_requests_keep_coming(rig: HoldingRig) -> None:
    rig.hold("a")
    rig.hold("b", HOLD_NS - 1)
    assert rig.sent() == ""
    rig.hold("c", 1)
    assert rig.sent() == "abc"
    assert rig.counters() == (3, 3, 0, 0)


def test_the_moment_begins_with_the_first_that_is_held(rig: HoldingRig) -> None:
    rig.hold("a")
    rig.dispatcher.serve_out()
    rig.clock.advance(1)  # nobody asked for anything
    rig.sent()
    rig.hold("b")
    rig.hold("c", HOLD_NS - 1)
    assert rig.sent() == ""
    rig.hold("d", 1)
    assert rig.sent() == "bcd"


def test_a_request_that_was_slow_is_not_held_nor_what_is_before_it(rig: HoldingRig) -> None:
    rig.hold("a")
    rig.hold("b", HOLD_NS)
    assert rig.sent() == "ab"


def test_what_could_not_be_sent_is_sent_next_time(rig: HoldingRig) -> None:
    rig.hold("a")
    rig.hold("b", rests=2)
    rig.hold("c")
    sent = []
    for _ in range(4):
        rig.dispatcher.serve_out()
        sent.append(rig.sent())
    assert sent == ["abc", "b", "b", ""]


@pytest.mark.parametrize("duration_ns", [QUICK_NS, 20 * QUICK_NS])
def test_after_a_request_that_was_not_quick_nothing_is_held_for_a_while(
    rig: HoldingRig, duration_ns: int
) -> None:
    rig.dispatcher.gathers = True
    assert rig.dispatcher.is_calm(rig.clock())
    rig.hold("a", duration_ns)
    assert not rig.dispatcher.gathers
    end_ns = rig.clock()
    uncalm_ns = max(UNCALM * duration_ns, ALERT_NS)  # it waited: the sentinel is alert, too
    assert not rig.dispatcher.is_calm(end_ns + uncalm_ns - 1)
    assert rig.dispatcher.is_calm(end_ns + uncalm_ns)


def test_quick_requests_leave_it_calm(rig: HoldingRig) -> None:
    for _ in range(10):
        rig.hold("a", QUICK_NS - 1)
    assert rig.dispatcher.is_calm(rig.clock())


def test_while_requests_go_through_the_pool_nothing_is_held(rig: HoldingRig) -> None:
    rig.dispatcher.inline = False
    assert not rig.dispatcher.is_calm(rig.clock())


# -- through the pool, and when the sentinel comes -----------------------------------------------


@pytest.mark.parametrize("why", ["all", "its kind"])
def test_before_a_request_goes_to_the_pool_what_is_held_is_sent(rig: HoldingRig, why: str) -> None:
    rig.hold("a")
    stream = Named(rig, "b")
    stopped: list[bool] = []
    stream.stop_gathering = lambda: stopped.append(stream.ran_on is None)  # type: ignore[method-assign]
    if why == "all":
        rig.dispatcher.inline = False
    else:
        rig.dispatcher._slow_kinds[stream.kind] = 0
    assert not rig.dispatcher.run(stream)
    stream.wait_until_handed_back()
    assert stream.ran_on is not threading.current_thread()
    assert stopped == [True], "a thread of the pool would hold its response"
    assert rig.freed.get(timeout=BOUND_S)
    assert rig.sent() == "afreed"


def test_the_next_leader_sends_what_is_held_and_what_the_stuck_one_holds(rig: HoldingRig) -> None:
    rig.hold("a")
    rig.hold("b")
    stuck = Named(rig, "c")
    seen: list[tuple[str, tuple[int, int, int, int], bool]] = []

    def lead() -> None:
        rig.dispatcher.serve_out()
        seen.append((rig.sent(), rig.counters(), rig.dispatcher.gathers))
        led.set()

    def app() -> None:
        rig.get_stuck()
        assert led.wait(BOUND_S)

    led = threading.Event()
    rig.dispatcher.gathers = True
    rig.dispatcher._lead = lead
    stuck._app = app
    assert rig.dispatcher.run(stuck)
    assert seen == [("abc", (3, 2, 0, 0), False)]
    assert rig.counters() == (3, 2, 1, 0)


def test_a_leader_that_waits_for_its_client_leaves_what_is_held_to_the_next(
    rig: HoldingRig,
) -> None:
    rig.hold("a")
    slow = Named(rig, "b")
    led = threading.Event()
    sent: list[str] = []

    def lead() -> None:
        rig.dispatcher.serve_out()
        sent.append(rig.sent().replace("freed", ""))
        led.set()

    def app() -> None:
        rig.dispatcher.wait_aside(slow)
        assert led.wait(BOUND_S)

    rig.dispatcher._lead = lead
    slow._app = app
    assert rig.dispatcher.run(slow)
    assert sent == ["a"]
    assert rig.counters() == (2, 1, 1, 0)
