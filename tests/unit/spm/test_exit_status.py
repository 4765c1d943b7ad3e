from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator

import pytest

from spm.exit_status import ExitStatus
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
    ("status", "by_us", "text"),
    [
        (ExitStatus(signal=9), False, "killed by SIGKILL, perhaps out of memory"),
        (ExitStatus(signal=9), True, "killed by SIGKILL, as it did not leave"),
        (ExitStatus(signal=11), False, "killed by SIGSEGV"),
        (ExitStatus(signal=63), False, "killed by signal 63"),
        (ExitStatus(), False, "exit status 0"),
    ],
)
def test_an_end_is_explained(status: ExitStatus, by_us: bool, text: str) -> None:
    assert status.explained(killed_by_us=by_us) == text
