from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator

import pytest

from spm.exit_status import ExitStatus, KernelKills
from spm.pidfd import PidFD


def forked(ending: Callable[[], None]) -> PidFD:
    pid = os.fork()
    if pid == 0:
        ending()
        os._exit(99)
    return PidFD(os.pidfd_open(pid))


@pytest.fixture
def sleeper() -> Iterator[PidFD]:
    pidfd = forked(lambda: signal.pause())
    yield pidfd
    pidfd.kill()
    wait_until_dead(pidfd)
    pidfd.collect()
    pidfd.close()


def wait_until_dead(pidfd: PidFD) -> None:
    assert select.select([pidfd], [], [], 10)[0], "the process did not end"


def test_an_exit_status_is_collected() -> None:
    pidfd = forked(lambda: os._exit(3))
    wait_until_dead(pidfd)
    status = pidfd.collect()
    assert status == ExitStatus(status=3)
    assert str(status) == "exit status 3"
    assert not ExitStatus(status=3).clean
    assert pidfd.collect() is None
    pidfd.close()


def test_a_living_process_has_no_exit_status(sleeper: PidFD) -> None:
    assert sleeper.collect() is None
    assert sleeper.pid() > 1


def test_a_signal_is_told_by_its_name(sleeper: PidFD) -> None:
    sleeper.kill()
    wait_until_dead(sleeper)
    status = sleeper.collect()
    assert status == ExitStatus(signal=signal.SIGKILL)
    assert str(status) == "killed by SIGKILL"


def test_killing_the_dead_is_no_error() -> None:
    pidfd = forked(lambda: os._exit(0))
    wait_until_dead(pidfd)
    pidfd.kill()
    pidfd.collect()
    pidfd.kill()
    assert pidfd.pid() == -1
    pidfd.close()
    pidfd.close()


def test_somebody_elses_child_cannot_be_collected() -> None:
    pidfd = PidFD(os.pidfd_open(os.getppid()))
    assert pidfd.collect() is None
    pidfd.close()


@pytest.mark.parametrize(
    ("status", "by_us", "out_of_memory", "text"),
    [
        (ExitStatus(signal=9), False, True, "killed by the kernel: out of memory"),
        (ExitStatus(signal=9), False, False, "killed by SIGKILL, by somebody else"),
        (ExitStatus(signal=9), False, None, "killed by SIGKILL, perhaps out of memory"),
        (ExitStatus(signal=9), True, True, "killed by SIGKILL, as it did not leave"),
        (ExitStatus(signal=11), False, True, "killed by SIGSEGV"),
        (ExitStatus(signal=63), False, None, "killed by signal 63"),
        (ExitStatus(), False, None, "exit status 0"),
    ],
)
def test_an_end_is_explained(
    status: ExitStatus, by_us: bool, out_of_memory: bool | None, text: str
) -> None:
    assert status.explained(killed_by_us=by_us, out_of_memory=out_of_memory) == text


# --- who killed it -------------------------------------------------------------------------

SECOND = 1_000_000_000


class Kernel:
    """Counts as the kernel does."""

    def __init__(self, count: int | None) -> None:
        self.count = count
        self.asked = 0

    def __call__(self) -> int | None:
        self.asked += 1
        return self.count


def test_without_a_new_count_it_was_somebody_else() -> None:
    kernel = Kernel(7)
    kills = KernelKills(kernel)
    assert kills.explain_one(1 * SECOND) is False
    assert kills.explain_one(2 * SECOND) is False


def test_each_count_explains_one_death() -> None:
    kernel = Kernel(7)
    kills = KernelKills(kernel)
    kernel.count = 9
    assert [kills.explain_one(SECOND) for _ in range(3)] == [True, True, False]
    kernel.count = 10
    assert [kills.explain_one(SECOND) for _ in range(2)] == [True, False]


def test_a_count_seen_before_the_death_was_reported_explains_it() -> None:
    kernel = Kernel(0)
    kills = KernelKills(kernel)
    kernel.count = 1
    kills.look(1 * SECOND)
    kills.look(2 * SECOND)
    assert kills.explain_one(3 * SECOND) is True


def test_a_count_of_long_ago_explains_nothing() -> None:
    kernel = Kernel(0)
    kills = KernelKills(kernel)
    kernel.count = 1  # a process of the application's, say
    kills.look(1 * SECOND)
    assert kills.explain_one(60 * SECOND) is False


def test_where_nobody_counts_nothing_is_known() -> None:
    kills = KernelKills(Kernel(None))
    kills.look(SECOND)
    assert kills.explain_one(2 * SECOND) is None


def test_a_count_that_comes_and_goes_is_no_kill() -> None:
    kernel = Kernel(None)
    kills = KernelKills(kernel)
    kernel.count = 5
    assert kills.explain_one(1 * SECOND) is False
    kernel.count = None
    assert kills.explain_one(2 * SECOND) is None
    kernel.count = 5
    assert kills.explain_one(3 * SECOND) is False


def test_looking_often_does_not_read_often() -> None:
    kernel = Kernel(0)
    kills = KernelKills(kernel)
    for ms in range(0, 2000, 20):
        kills.look(SECOND + ms * 1_000_000)
    assert kernel.asked <= 6
