from __future__ import annotations

from spm.shutdown import Shutdown, Step

SECOND = 1_000_000_000


def test_nothing_happens_until_somebody_asks() -> None:
    shutdown = Shutdown()
    assert not shutdown.asked
    assert shutdown.next_step(10**18, 1.0) is None


def test_grace_then_now_then_kill_each_in_its_time() -> None:
    shutdown = Shutdown()
    assert shutdown.ask(0, 30.0) is Step.STOPPING
    assert shutdown.next_step(30 * SECOND - 1, 1.0) is None
    assert shutdown.next_step(30 * SECOND, 1.0) is Step.NOW
    assert shutdown.next_step(31 * SECOND - 1, 1.0) is None
    assert shutdown.next_step(31 * SECOND, 1.0) is Step.KILLED


def test_killing_is_repeated_each_second() -> None:
    shutdown = Shutdown(Step.NOW, deadline_ns=0)
    assert shutdown.next_step(0, 1.0) is Step.KILLED
    assert shutdown.next_step(SECOND - 1, 1.0) is None
    assert shutdown.next_step(SECOND, 1.0) is Step.KILLED


def test_a_second_signal_means_now_and_the_kill_follows_soon() -> None:
    shutdown = Shutdown()
    shutdown.ask(0, 30.0)
    assert shutdown.ask(SECOND, 30.0) is Step.NOW
    assert shutdown.next_step(SECOND + SECOND // 5, 1.0) is Step.KILLED


def test_a_third_signal_does_not_put_off_the_kill() -> None:
    shutdown = Shutdown()
    shutdown.ask(0, 30.0)
    shutdown.ask(0, 30.0)
    deadline_ns = shutdown.deadline_ns
    shutdown.ask(SECOND // 10, 30.0)
    assert shutdown.deadline_ns == deadline_ns
