"""What CPU time says about the number of workers."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spm.cpu_rules import FULL, Verdict, appetite_of, is_at_work, judge
from spm.observation import CpuLook, Memory, Observation, WorkerSeen, WorkerState

PERSIST_S = 0.5
shares = st.floats(0, 1)


def crew(
    count: int, cpu: float, run_wait: float = 0.0, work: float = 1.0
) -> tuple[WorkerSeen, ...]:
    return tuple(
        WorkerSeen(slot, WorkerState.READY, busy=round(work), cpu=cpu, work=work, run_wait=run_wait)
        for slot in range(count)
    )


class Looks:
    """One look after the other, with the memory of the one before."""

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.memory = Memory()
        self.now_s = 1000.0

    def look(
        self,
        ready: tuple[WorkerSeen, ...],
        *,
        live: int | None = None,
        after_s: float = 0.1,
        machine_cpu: float = 0.3,
        pressure: float = 0.0,
        cpu_look: CpuLook | None = None,
    ) -> Verdict:
        self.now_s += after_s
        seen = Observation(ready, machine_cpu=machine_cpu, cpu_pressure=pressure, cpu_look=cpu_look)
        live = len(ready) if live is None else live
        self.memory, verdict = judge(
            seen, ready, live, self.memory, self.cores, PERSIST_S, self.now_s
        )
        return verdict


# --- appetite ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "run_wait", "appetite"),
    [
        (0.0, 0.0, 0.0),
        (1.0, 0.0, 1.0),
        (0.5, 0.5, 1.0),  # it had half a core and waited for the other half
        (0.3, 0.0, 0.3),
        (0.3, 0.4, 0.5),  # of the time that it was not kept waiting, half
        (0.0, 1.0, 1.0),  # it never got one
        (1.7, 0.0, 1.0),  # C code without the GIL; one core's worth of Python all the same
        (0.02, 1.0, 1.0),
    ],
)
def test_the_appetite_is_what_it_would_use_if_it_had_a_core_for_itself(
    cpu: float, run_wait: float, appetite: float
) -> None:
    assert appetite_of(cpu, run_wait) == pytest.approx(appetite)


@given(st.floats(0, 8), shares)
def test_an_appetite_is_at_least_what_is_used_and_at_most_a_core(
    cpu: float, run_wait: float
) -> None:
    appetite = appetite_of(cpu, run_wait)
    assert min(1.0, cpu) - 1e-9 <= appetite <= 1.0


def test_who_idles_has_no_appetite_to_speak_of() -> None:
    assert not is_at_work(0, 0.01)
    assert is_at_work(1, 0.0)
    assert is_at_work(0, 0.5)


# --- how many are of use ---------------------------------------------------------------------


def test_while_less_than_half_a_core_is_used_there_is_no_bound() -> None:
    looks = Looks(cores=2)
    assert looks.look(crew(8, 0.05)).most > 10_000
    assert looks.memory.appetite == 0


@pytest.mark.parametrize(("cores", "most"), [(1, 1), (2, 3), (4, 5), (16, 20)])
def test_of_workers_that_only_compute_few_more_than_cores_are_of_use(cores: int, most: int) -> None:
    assert Looks(cores).look(crew(1, 1.0)).most == most


def test_workers_that_sleep_half_the_time_may_be_twice_as_many() -> None:
    assert Looks(cores=4).look(crew(3, 0.5)).most == 10


def test_what_they_wait_for_a_core_does_not_look_like_sleep() -> None:
    crowd = crew(8, 0.25, run_wait=0.75)
    assert Looks(cores=2).look(crowd).most == 4  # 3, and one more that does no harm


def test_one_more_than_of_use_may_stay_two_may_not() -> None:
    assert Looks(cores=2).look(crew(3, 0.66, run_wait=0.34)).most == 3
    assert Looks(cores=2).look(crew(4, 0.5, run_wait=0.5)).most == 4
    assert Looks(cores=2).look(crew(5, 0.4, run_wait=0.6)).most == 4


def test_idle_workers_say_nothing_of_the_appetite_of_those_that_work() -> None:
    looks = Looks(cores=2)
    assert looks.look((*crew(1, 1.0), *crew(5, 0.0, work=0.0)), live=3).most == 3
    assert looks.memory.appetite == 1.0


def test_workers_that_are_idle_half_the_time_are_not_taken_for_sleepers() -> None:
    # Half a core in half the time: when they have something to do they compute all along.
    looks = Looks(cores=2)
    assert looks.look(crew(2, 0.5, work=0.5)).most == 3
    assert looks.memory.appetite == 1.0


def test_the_quick_look_counts_before_the_slow_one() -> None:
    looks = Looks(cores=4)
    assert looks.look(crew(1, 0.0), cpu_look=CpuLook(load=1.0, appetite=1.0)).most == 5
    assert looks.look(crew(1, 1.0), cpu_look=CpuLook(load=0.1, appetite=0.1)).most > 10_000


def test_a_new_appetite_is_believed_after_two_seconds_not_at_the_first_look() -> None:
    looks = Looks(cores=4)
    looks.look(crew(4, 1.0))
    looks.look(crew(4, 0.2), after_s=0.1)
    assert 0.9 < looks.memory.appetite < 1.0
    looks.look(crew(4, 0.2), after_s=5)
    assert looks.memory.appetite == pytest.approx(0.2)


def test_an_appetite_of_nothing_does_not_divide_by_zero() -> None:
    looks = Looks(cores=2)
    assert looks.look(crew(1, 0.0), cpu_look=CpuLook(load=2.0, appetite=0.0)).most > 100


@given(st.integers(1, 64), st.floats(0, 128), shares, st.integers(0, 64))
def test_at_least_one_is_always_of_use(cores: int, load: float, appetite: float, live: int) -> None:
    looks = Looks(cores)
    verdict = looks.look((), live=live, cpu_look=CpuLook(load, appetite))
    assert verdict.most >= 1
    assert (verdict.wanted, verdict.keep) == (0, 0)


# --- one more ----------------------------------------------------------------------------------


def test_one_more_is_asked_for_when_all_have_been_full_for_long_enough() -> None:
    looks = Looks(cores=4)
    assert looks.look(crew(1, 0.95)).wanted == 0
    assert looks.look(crew(1, 0.95), after_s=0.4).wanted == 0
    assert looks.look(crew(1, 0.95), after_s=0.2).wanted == 2


def test_a_breath_in_between_begins_the_wait_anew() -> None:
    looks = Looks(cores=4)
    looks.look(crew(1, 0.95))
    looks.look(crew(1, FULL - 0.01), after_s=0.4)
    assert looks.memory.cpu_full_since_s == inf
    assert looks.look(crew(1, 0.95), after_s=0.2).wanted == 0
    assert looks.look(crew(1, 0.95), after_s=0.6).wanted == 2


def test_the_newcomer_gets_time_to_take_its_share_before_the_next() -> None:
    looks = Looks(cores=8)
    looks.look(crew(1, 0.95))
    assert looks.look(crew(1, 0.95), after_s=0.6).wanted == 2
    assert looks.look(crew(1, 0.95), live=2, after_s=0.6).wanted == 0, "it is starting"
    assert looks.look(crew(2, 0.95), after_s=0.1).wanted == 3
    assert looks.look(crew(3, 0.95), after_s=0.1).wanted == 0


@pytest.mark.parametrize(
    "circumstance",
    [{"machine_cpu": 0.95}, {"pressure": 0.7}, {"live": 4}],
    ids=["machine full", "somebody waits for a core", "a worker per core"],
)
def test_no_more_is_asked_for_where_none_would_get_a_core(circumstance: dict[str, float]) -> None:
    looks = Looks(cores=4)
    for _ in range(20):
        assert looks.look(crew(3, 0.95), **circumstance).wanted == 0  # type: ignore[arg-type]


def test_one_worker_with_a_core_to_spare_is_enough_to_ask_for_nothing() -> None:
    looks = Looks(cores=8)
    for _ in range(20):
        assert looks.look((*crew(2, 1.0), *crew(1, 0.3))).wanted == 0


# --- keep --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "cpu", "keep"), [(1, 0.0, 0), (2, 0.35, 1), (2, 0.45, 2), (4, 0.7, 4), (4, 0.5, 3)]
)
def test_so_many_are_kept_that_the_others_are_not_filled_by_their_work(
    count: int, cpu: float, keep: int
) -> None:
    assert Looks(cores=8).look(crew(count, cpu)).keep == keep


@given(st.integers(1, 64), shares)
def test_one_more_than_full_ones_is_not_too_many_to_keep(count: int, surplus: float) -> None:
    # What made one more come must not make it leave again: no flapping.
    used = count * (FULL + surplus * (1 - FULL))
    looks = Looks(cores=128)
    assert looks.look(crew(count + 1, used / (count + 1))).keep >= min(count + 1, 2)
