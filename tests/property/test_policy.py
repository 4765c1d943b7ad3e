"""decide(): what holds whatever is seen, and what it does with a simulated load."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm.balance import FULL, plan_shift
from spm.observation import (
    Actions,
    CpuLook,
    Death,
    Memory,
    Observation,
    WorkerSeen,
    WorkerState,
)
from spm.policy import Policy, decide, workers_for
from spm.settings import SPMS

LIVE = (WorkerState.STARTING, WorkerState.READY)
POLICY = Policy(min_workers=1, max_workers=6, threads=2, usable_cores=2)

workers_seen = st.builds(
    WorkerSeen,
    slot=st.just(0),
    state=st.sampled_from(WorkerState),
    generation=st.sampled_from([0, 1]),
    busy=st.integers(0, 1 << 20),
    waiting=st.integers(0, 1 << 20),
    connections=st.integers(0, 1 << 20),
    spawned_s=st.floats(0, 2000),
    cpu=st.floats(0, 8),
    work=st.floats(0, 1),
    run_wait=st.floats(0, 1),
    worn=st.sampled_from(["", "", "threads that are stuck"]),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    low = draw(st.integers(1, 8))
    return Policy(
        min_workers=low,
        max_workers=draw(st.integers(low, 16)),
        threads=draw(st.integers(1, 16)),
        usable_cores=draw(st.integers(1, 8)),
        memory_limit_bytes=draw(st.sampled_from([0, 100 << 20])),
        memory_reserve_bytes=draw(st.sampled_from([0, 64 << 20])),
    )


@st.composite
def observations(draw: st.DrawFn, max_size: int = 12) -> Observation:
    crew = draw(st.lists(workers_seen, max_size=max_size))
    return Observation(
        workers=tuple(worker._replace(slot=slot) for slot, worker in enumerate(crew)),
        generation=draw(st.sampled_from([0, 1])),
        arrived=draw(st.integers(0, 1 << 40)),
        ended=draw(st.integers(0, 1 << 40)),
        service_s=draw(st.floats(0, 1e9)),
        busy_s=draw(st.floats(0, 1e9)),
        accept_queue=draw(st.integers(0, 1 << 20)),
        deaths=tuple(
            draw(
                st.lists(st.builds(Death, st.floats(0, 100), st.booleans(), st.just(0)), max_size=3)
            )
        ),
        machine_cpu=draw(st.floats(0, 1)),
        cpu_pressure=draw(st.floats(0, 1)),
        cpu_look=draw(st.none() | st.builds(CpuLook, st.floats(0, 512), st.floats(0, 1))),
        worker_memory_bytes=draw(st.integers(0, 1 << 30)),
        memory_available_bytes=draw(st.integers(0, 1 << 40)),
        can_spawn=draw(st.booleans()),
        floor=draw(st.integers(0, 16)),
        reloading=draw(st.booleans()),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Observation, float]]:
    """A few looks, one after the other; what is seen may be anything each time."""
    now_s = 1000.0
    looks = []
    for seen in draw(st.lists(observations(), min_size=1, max_size=6)):
        now_s += draw(st.floats(0.001, 30))
        looks.append((seen, now_s))
    return looks


def live_count(seen: Observation) -> int:
    """Return how many workers are capacity; one whose threads are stuck is none."""
    current = [w for w in seen.workers if w.generation == seen.generation and not w.worn]
    return sum(w.state in LIVE for w in current)


def retired_fresh(seen: Observation, actions: Actions) -> list[WorkerSeen]:
    """Return those that are to leave although their threads are not stuck."""
    return [w for w in seen.workers if w.slot in actions.retire and not w.worn]


def play(looks: list[tuple[Observation, float]], policy: Policy) -> list[Actions]:
    memory = Memory()
    result = []
    for seen, now_s in looks:
        actions = decide(seen._replace(memory=memory), policy, now_s)
        memory = actions.memory
        result.append(actions)
    return result


# --- whatever is seen -------------------------------------------------------------------


@settings(deadline=None)
@given(histories(), policies())
def test_it_never_wants_more_than_the_maximum_or_fewer_than_the_minimum(
    looks: list[tuple[Observation, float]], policy: Policy
) -> None:
    for (seen, _), actions in zip(looks, play(looks, policy), strict=True):
        assert policy.min_workers <= actions.wanted <= policy.max_workers
        live = live_count(seen)
        grown = live + actions.spawn + len(actions.revive)
        assert grown <= max(live, policy.max_workers)
        if actions.retire:
            assert live - len(retired_fresh(seen, actions)) >= policy.min_workers


@settings(deadline=None)
@given(histories(), policies())
def test_nothing_is_retired_while_a_worker_starts_a_request_waits_or_a_reload_runs(
    looks: list[tuple[Observation, float]], policy: Policy
) -> None:
    for (seen, _), actions in zip(looks, play(looks, policy), strict=True):
        current = [w for w in seen.workers if w.generation == seen.generation and not w.worn]
        waiting = seen.accept_queue + sum(w.waiting for w in seen.workers)
        if any(w.state is WorkerState.STARTING for w in current):
            assert not actions.retire
        elif waiting or seen.reloading:
            assert not retired_fresh(seen, actions)


@settings(deadline=None)
@given(histories(), policies())
def test_it_acts_only_on_workers_that_can_be_acted_upon(
    looks: list[tuple[Observation, float]], policy: Policy
) -> None:
    for (seen, _), actions in zip(looks, play(looks, policy), strict=True):
        by_slot = {w.slot: w for w in seen.workers}
        assert all(by_slot[slot].state is WorkerState.READY for slot in actions.retire)
        assert all(by_slot[slot].state is WorkerState.DRAINING for slot in actions.revive)
        for slot in (*actions.retire, *actions.revive):
            assert by_slot[slot].generation == seen.generation or by_slot[slot].worn
        assert not any(by_slot[slot].worn for slot in actions.revive)
        assert len(set(actions.retire)) == len(actions.retire)


@settings(deadline=None)
@given(histories(), policies())
def test_it_does_one_kind_of_thing_at_a_time_and_says_why(
    looks: list[tuple[Observation, float]], policy: Policy
) -> None:
    for (seen, _), actions in zip(looks, play(looks, policy), strict=True):
        grows = bool(actions.spawn or actions.revive)
        assert grows + bool(actions.retire) + actions.give_up <= 1
        assert bool(actions.why) == (grows or bool(actions.retire) or actions.give_up)
        assert actions.spawn >= 0
        if not seen.can_spawn:
            assert actions.spawn == 0


@settings(deadline=None)
@given(histories(), policies())
def test_a_worn_worker_leaves_alone_and_only_when_there_are_enough_without_it(
    looks: list[tuple[Observation, float]], policy: Policy
) -> None:
    for (seen, _), actions in zip(looks, play(looks, policy), strict=True):
        worn = [w for w in seen.workers if w.slot in actions.retire and w.worn]
        if worn:
            assert len(actions.retire) == 1
            assert live_count(seen) >= actions.wanted
            assert any(
                w.state is WorkerState.READY and w.generation == seen.generation and not w.worn
                for w in seen.workers
            )


@settings(deadline=None)
@given(histories(), policies())
def test_the_same_input_gives_the_same_output(
    looks: list[tuple[Observation, float]], policy: Policy
) -> None:
    assert play(looks, policy) == play(looks, policy)


@settings(deadline=None)
@given(observations(), policies())
def test_it_gives_up_only_when_nobody_serves(seen: Observation, policy: Policy) -> None:
    failing = Memory(failed_starts=99, generation=seen.generation)
    actions = decide(seen._replace(memory=failing), policy, 1000.0)
    ready = [w for w in seen.workers if w.state is WorkerState.READY]
    # One with stuck threads serves all the same.
    if seen.reloading or any(w.generation == seen.generation for w in ready):
        assert not actions.give_up
    elif not ready:
        assert actions.give_up


@settings(deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6), policies())
def test_more_demand_never_needs_fewer_workers(a: float, b: float, policy: Policy) -> None:
    low, high = sorted((a, b))
    assert workers_for(low, policy) <= workers_for(high, policy)


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(0, 100))
def test_more_waiting_requests_never_want_fewer_workers(a: int, b: int) -> None:
    low, high = sorted((a, b))
    memory = Memory(mean_service_s=0.1)
    wanted = [
        decide(ready_workers(1, accept_queue=count, memory=memory), POLICY, 1000.0).wanted
        for count in (low, high)
    ]
    assert wanted[0] <= wanted[1]


@settings(deadline=None)
@given(observations(), policies(), st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_whatever_else_is_seen_more_demand_never_wants_fewer_workers(
    seen: Observation, policy: Policy, a: int, b: int
) -> None:
    memory = Memory(mean_service_s=0.1, ended=1 << 41)
    wanted = [
        decide(seen._replace(accept_queue=count, memory=memory), policy, 1000.0).wanted
        for count in sorted((a, b))
    ]
    assert wanted[0] <= wanted[1]


@settings(deadline=None)
@given(observations(), policies(), st.integers(0, 50), st.floats(0.5, 20))
def test_workers_that_compute_more_are_never_wanted_fewer_for_it_while_cores_are_free(
    seen: Observation, policy: Policy, waiting: int, after_s: float
) -> None:
    """All full, and nobody waits for a core: at least as many are wanted as if they slept."""
    wanted = []
    for cpu in (0.0, 1.0):
        crew = [w._replace(cpu=cpu, work=1.0, run_wait=0.0) for w in seen.workers]
        load = seen._replace(
            workers=tuple(crew),
            accept_queue=waiting,
            cpu_look=None,
            cpu_pressure=0.0,
            machine_cpu=0.5,
        )
        if live_count(load) > policy.usable_cores:
            return
        first = decide(load, policy, 1000.0)
        second = decide(load._replace(memory=first.memory, deaths=()), policy, 1000.0 + after_s)
        wanted.append(min(second.wanted, policy.usable_cores))
    assert wanted[0] <= wanted[1]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.001, 40), st.booleans(), st.booleans()), max_size=40),
    policies(),
)
def test_failed_starts_are_spaced_out_whenever_they_come(
    deaths: list[tuple[float, bool, bool]], policy: Policy
) -> None:
    """(when the next look is, whether somebody has died at its start, or a while after)."""
    memory, now_s = Memory(), 1000.0
    failed_in_a_row, not_before_s = 0, 0.0
    for pause_s, at_start, later in deaths:
        now_s += pause_s
        died = tuple(
            [Death(0.0, was_ready=False)] * at_start + [Death(100.0, was_ready=True)] * later
        )
        actions = decide(Observation(workers=(), deaths=died, memory=memory), policy, now_s)
        memory = actions.memory
        if at_start:
            failed_in_a_row += 1
            pause_s = policy.backoff_s * 2**failed_in_a_row
            not_before_s = now_s + min(policy.backoff_max_s, pause_s)
        if now_s < not_before_s - 1e-6:
            assert not actions.spawn
        elif not actions.give_up:
            assert actions.spawn


@settings(deadline=None)
@given(observations(), policies())
def test_while_nobody_knows_whether_they_compute_no_more_come_than_there_are_cores(
    seen: Observation, policy: Policy
) -> None:
    actions = decide(seen._replace(cpu_look=None), policy, 1000.0)
    waiting = seen.accept_queue + sum(w.waiting for w in seen.workers)
    if waiting and live_count(seen) >= policy.min_workers:
        assert actions.spawn <= policy.usable_cores


# --- single rules ------------------------------------------------------------------------


def ready_workers(count: int, **fields: object) -> Observation:
    workers = tuple(WorkerSeen(slot, WorkerState.READY, spawned_s=0.0) for slot in range(count))
    return Observation(workers=workers)._replace(**fields)  # type: ignore[arg-type]


def test_an_empty_fleet_is_filled_to_the_minimum_at_once() -> None:
    policy = POLICY._replace(min_workers=3)
    actions = decide(Observation(workers=()), policy, 1000.0)
    assert actions.spawn == 3
    assert "0 of at least 3" in actions.why


def test_starting_workers_count_as_capacity() -> None:
    starting = WorkerSeen(0, WorkerState.STARTING)
    assert decide(Observation(workers=(starting,)), POLICY, 1000.0).spawn == 0


def test_no_more_than_a_few_start_at_once() -> None:
    policy = POLICY._replace(min_workers=6, starting_limit=4)
    assert decide(Observation(workers=()), policy, 1000.0).spawn == 4


def test_a_wedged_worker_is_replaced() -> None:
    wedged = WorkerSeen(0, WorkerState.WEDGED, busy=1)
    assert decide(Observation(workers=(wedged,)), POLICY, 1000.0).spawn == 1


def worn(slot: int, state: WorkerState = WorkerState.READY, **fields: object) -> WorkerSeen:
    return WorkerSeen(slot, state, worn="threads that are stuck", **fields)  # type: ignore[arg-type]


def test_a_worn_worker_is_no_capacity_but_stays_until_its_replacement_is_ready() -> None:
    starting = WorkerSeen(1, WorkerState.STARTING)
    ready = WorkerSeen(1, WorkerState.READY)
    assert decide(Observation(workers=(worn(0),)), POLICY, 1000.0).spawn == 1
    waiting = decide(Observation(workers=(worn(0), starting)), POLICY, 1000.0)
    assert (waiting.spawn, waiting.retire, waiting.pending) == (0, (), True)
    others = WorkerSeen(2, WorkerState.STARTING)
    assert decide(Observation(workers=(worn(0), ready, others)), POLICY, 1000.0).retire == ()
    replaced = decide(Observation(workers=(worn(0), ready)), POLICY, 1000.0)
    assert replaced.retire == (0,)
    assert "stuck" in replaced.why


def test_a_worn_worker_is_replaced_although_there_are_as_many_as_there_may_be() -> None:
    policy = POLICY._replace(min_workers=1, max_workers=1)
    assert decide(Observation(workers=(worn(0),)), policy, 1000.0).spawn == 1


def test_what_the_hold_keeps_is_replaced_before_a_worn_worker_leaves() -> None:
    memory = Memory(peaks=((999.0, 2),), hold_s=8.0)
    crew = (worn(0), WorkerSeen(1, WorkerState.READY))
    actions = decide(Observation(workers=crew, memory=memory), POLICY, 1000.0)
    assert (actions.spawn, actions.retire) == (1, ())
    assert actions.why == "in place of slot 0: threads that are stuck"
    crew += (WorkerSeen(2, WorkerState.READY),)
    actions = decide(Observation(workers=crew, memory=actions.memory), POLICY, 1000.1)
    assert (actions.spawn, actions.retire) == (0, (0,))


def test_what_nobody_has_needed_for_a_while_is_not_replaced() -> None:
    memory = Memory(peaks=((980.0, 2),), hold_s=8.0)
    crew = (worn(0), WorkerSeen(1, WorkerState.READY))
    assert decide(Observation(workers=crew, memory=memory), POLICY, 1000.0).retire == (0,)


def test_a_replacement_soon_after_a_retirement_is_no_regret() -> None:
    memory = Memory(peaks=((999.0, 2),), hold_s=8.0, retired_s=999.0)
    crew = (worn(0), WorkerSeen(1, WorkerState.READY))
    actions = decide(Observation(workers=crew, memory=memory), POLICY, 1000.0)
    assert actions.spawn == 1
    assert actions.memory.hold_s == 8.0


def test_worn_workers_leave_one_after_the_other() -> None:
    ready = [WorkerSeen(slot, WorkerState.READY) for slot in range(3, 6)]
    policy = POLICY._replace(min_workers=3)
    crew = [worn(slot) for slot in range(3)] + ready
    left = []
    for look in range(4):
        actions = decide(Observation(workers=tuple(crew)), policy, 1000.0 + look / 10)
        for slot in actions.retire:
            left.append(slot)
            crew = [w for w in crew if w.slot != slot] + [worn(slot, WorkerState.DRAINING)]
    assert left == [0, 1, 2]


def test_load_does_not_keep_a_worn_worker() -> None:
    # Everybody it turns away is served by its replacement; waiting requests are no reason.
    seen = Observation(
        workers=(worn(0, busy=2, waiting=5), WorkerSeen(1, WorkerState.READY, busy=1)),
        accept_queue=3,
    )
    assert decide(seen, POLICY, 1000.0).retire == (0,)


def test_the_load_of_a_worn_worker_is_load() -> None:
    memory = Memory(mean_service_s=0.1, recent=((999.0, 8), (999.96, 8)))
    crew = (worn(0, busy=4, waiting=4), WorkerSeen(1, WorkerState.READY))
    actions = decide(Observation(workers=crew, memory=memory), POLICY, 1000.0)
    assert actions.spawn > 0


def test_a_worn_worker_that_leaves_is_not_taken_back() -> None:
    actions = decide(Observation(workers=(worn(3, WorkerState.DRAINING),)), POLICY, 1000.0)
    assert actions.revive == ()
    assert actions.spawn == 1


def test_a_worn_worker_whose_replacement_cannot_start_goes_on_serving() -> None:
    memory, now_s = Memory(), 1000.0
    for _ in range(12):
        seen = Observation(workers=(worn(0),), deaths=(Death(0.0, False),), memory=memory)
        actions = decide(seen, POLICY, now_s)
        assert not actions.give_up
        assert actions.retire == ()
        memory = actions.memory
        now_s += 60


def test_a_draining_worker_is_taken_back_before_one_is_forked() -> None:
    draining = WorkerSeen(3, WorkerState.DRAINING)
    actions = decide(Observation(workers=(draining,)), POLICY, 1000.0)
    assert actions.revive == (3,)
    assert actions.spawn == 0


def test_draining_workers_of_the_old_generation_are_not_taken_back() -> None:
    draining = WorkerSeen(3, WorkerState.DRAINING, generation=1)
    actions = decide(Observation(workers=(draining,), generation=2), POLICY, 1000.0)
    assert actions.revive == ()
    assert actions.spawn == 1


def test_the_victim_is_the_idlest_then_the_one_with_fewest_connections_then_the_youngest() -> None:
    def victim(*workers: WorkerSeen) -> int:
        seen = Observation(workers=workers)
        idle_since = Memory(hold_s=8.0)
        return decide(seen._replace(memory=idle_since), POLICY, 1000.0).retire[0]

    ready = WorkerState.READY
    assert victim(WorkerSeen(0, ready, busy=1), WorkerSeen(1, ready)) == 1
    assert victim(WorkerSeen(0, ready, connections=1), WorkerSeen(1, ready, connections=9)) == 0
    assert victim(WorkerSeen(0, ready, spawned_s=5), WorkerSeen(1, ready, spawned_s=9)) == 1


def test_a_blip_shorter_than_the_persistence_time_spawns_nothing() -> None:
    memory = Memory(mean_service_s=0.001, ended=100)
    now_s = 1000.0
    for queued in (0, 0, 8, 8, 0, 0):
        seen = ready_workers(1, accept_queue=queued, ended=100, memory=memory)
        actions = decide(seen, POLICY, now_s)
        assert actions.spawn == 0
        memory = actions.memory
        now_s += 0.02


def test_what_waits_longer_gets_threads_whatever_the_mean_service_time_says() -> None:
    memory = Memory(mean_service_s=0.001, ended=100)
    now_s = 1000.0
    spawned = 0
    for _ in range(6):
        actions = decide(ready_workers(1, accept_queue=8, ended=100, memory=memory), POLICY, now_s)
        spawned += actions.spawn
        memory = actions.memory
        now_s += 0.025
    assert spawned > 0


def test_failed_starts_are_spaced_out_ever_further() -> None:
    memory, now_s, starts = Memory(), 1000.0, []
    deaths: tuple[Death, ...] = ()
    policy = POLICY._replace(give_up_after=99)
    while len(starts) < 8:
        seen = Observation(workers=(), deaths=deaths, memory=memory)
        actions = decide(seen, policy, now_s)
        memory = actions.memory
        deaths = ()
        if actions.spawn:
            starts.append(now_s)
            deaths = (Death(0.01, was_ready=False),)
        now_s += 0.01
    pauses = [b - a for a, b in itertools.pairwise(starts)]
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.2, abs=0.02)
    assert pauses[5] == pytest.approx(6.4, abs=0.02)


def test_a_worker_that_served_for_long_is_replaced_at_once() -> None:
    seen = Observation(workers=(), deaths=(Death(60.0, was_ready=True),))
    assert decide(seen, POLICY, 1000.0).spawn == 1


def test_workers_that_are_killed_young_are_replaced_at_least_once_a_second() -> None:
    memory, now_s = Memory(), 1000.0
    for _ in range(20):
        seen = Observation(workers=(), deaths=(Death(1.0, was_ready=True),), memory=memory)
        memory = decide(seen, POLICY, now_s).memory
        now_s += 1.01
        actions = decide(Observation(workers=(), memory=memory), POLICY, now_s)
        assert actions.spawn == 1
        assert not actions.give_up
        memory = actions.memory


def test_what_the_old_generation_died_of_does_not_hold_up_the_new_one() -> None:
    memory = Memory(generation=1, failed_starts=4, retry_s=2000.0)
    seen = Observation(workers=(), generation=2, memory=memory)
    assert decide(seen, POLICY, 1000.0).spawn == 1


def test_it_gives_up_after_five_failed_starts_with_nobody_ready() -> None:
    memory, now_s = Memory(), 1000.0
    for count in range(1, 6):
        seen = Observation(workers=(), deaths=(Death(0.0, was_ready=False),), memory=memory)
        actions = decide(seen, POLICY, now_s)
        assert actions.give_up == (count == 5)
        memory = actions.memory
        now_s += 60


# --- CPU and memory -----------------------------------------------------------------------


def full_workers(count: int, cpu: float, **fields: object) -> Observation:
    seen = ready_workers(count, **fields)
    crew = tuple(w._replace(cpu=cpu, work=1.0, busy=1) for w in seen.workers)
    return seen._replace(workers=crew)


def after(seconds: float, seen: Observation, policy: Policy) -> Actions:
    """Decide twice on the same sight, so much apart."""
    first = decide(seen, policy, 1000.0)
    return decide(seen._replace(memory=first.memory), policy, 1000.0 + seconds)


def test_a_worker_near_one_core_gets_company_although_it_has_threads_left() -> None:
    policy = POLICY._replace(threads=32, usable_cores=4)
    actions = after(0.6, full_workers(1, 0.95, machine_cpu=0.3), policy)
    assert actions.spawn == 1
    assert "CPU" in actions.why


def test_a_short_burst_of_cpu_spawns_nothing() -> None:
    policy = POLICY._replace(threads=32, usable_cores=4)
    assert after(0.3, full_workers(1, 0.95, machine_cpu=0.3), policy).spawn == 0


@pytest.mark.parametrize(
    ("workers", "machine_cpu"), [(4, 0.5), (1, 0.95)], ids=["a worker per core", "machine full"]
)
def test_no_process_is_added_for_cpu_that_is_not_there(workers: int, machine_cpu: float) -> None:
    policy = POLICY._replace(threads=32, usable_cores=4)
    assert after(0.6, full_workers(workers, 0.95, machine_cpu=machine_cpu), policy).spawn == 0


def test_a_worker_that_the_others_could_not_replace_is_kept() -> None:
    policy = POLICY._replace(threads=32, usable_cores=4)
    memory = Memory()
    for tick in range(400):
        seen = full_workers(2, 0.45, machine_cpu=0.3, memory=memory)
        actions = decide(seen, policy, 1000.0 + tick / 10)
        assert not actions.retire
        memory = actions.memory


def test_a_worker_is_retired_when_the_others_have_cpu_enough() -> None:
    policy = POLICY._replace(threads=32, usable_cores=4)
    memory = Memory()
    retired = 0
    for tick in range(120):
        seen = full_workers(2, 0.2, machine_cpu=0.3, memory=memory)
        actions = decide(seen, policy, 1000.0 + tick / 10)
        retired += len(actions.retire)
        memory = actions.memory
        if retired:
            break
    assert retired == 1


def test_with_every_core_taken_by_the_workers_no_more_are_added() -> None:
    # One more than cores is of use, for now and then one of them sleeps; more are not.
    crowd = full_workers(3, 0.65, accept_queue=50, machine_cpu=0.99)
    busy = crowd._replace(
        workers=tuple(w._replace(run_wait=0.35) for w in crowd.workers),
        cpu_look=CpuLook(load=3.0, appetite=1.0),
        memory=Memory(mean_service_s=1.0),
    )
    assert decide(busy, POLICY, 1000.0).spawn == 0
    # The slow measurement alone says the same.
    assert decide(busy._replace(cpu_look=None), POLICY, 1000.0).spawn == 0


def test_requests_that_only_sleep_get_workers_although_others_fill_the_machine() -> None:
    sleepers = ready_workers(2, accept_queue=50, machine_cpu=0.99)
    assert decide(sleepers._replace(memory=Memory(mean_service_s=1.0)), POLICY, 1000.0).spawn > 0


def test_nothing_is_spawned_when_memory_runs_low() -> None:
    policy = POLICY._replace(memory_reserve_bytes=64 << 20)
    crowd = ready_workers(1, accept_queue=50, memory_available_bytes=10 << 20)
    assert decide(crowd._replace(memory=Memory(mean_service_s=1.0)), policy, 1000.0).spawn == 0


def test_above_the_memory_limit_one_worker_at_a_time_is_retired_although_needed() -> None:
    policy = POLICY._replace(memory_limit_bytes=300 << 20)
    memory = Memory(peaks=((999.9, 6),), hold_s=8.0, spawned_s=999.0)
    seen = ready_workers(5, worker_memory_bytes=100 << 20, memory=memory)
    actions = decide(seen, policy, 1000.0)
    assert len(actions.retire) == 1
    assert "memory" in actions.why


def test_workers_that_import_for_themselves_may_start_more_at_once() -> None:
    preload = Policy.of(SPMS(max_workers=16), usable_cores=2)
    each = Policy.of(SPMS(max_workers=16, preload=False), usable_cores=2)
    assert each.starting_limit > preload.starting_limit


# --- against a simulated load -----------------------------------------------------------


@dataclass
class Simulation:
    """One queue before all workers, as the shared listener is; time in seconds.

    A look every 100 ms, every 25 ms while something waits, as the manager does it.
    """

    policy: Policy
    service_s: float
    boot_s: float = 0.02
    now_s: float = 1000.0
    memory: Memory = field(default_factory=Memory)
    workers: dict[int, tuple[WorkerState, float]] = field(default_factory=dict)
    running: list[tuple[float, int, float]] = field(default_factory=list)
    queue: deque[float] = field(default_factory=deque)
    waits_s: list[float] = field(default_factory=list)
    history: list[tuple[float, int]] = field(default_factory=list)
    arrived: int = 0
    ended: int = 0
    worked_s: float = 0.0
    busy_s: float = 0.0
    spawns: int = 0
    retires: int = 0
    next_slot: int = 0

    def busy_of(self, slot: int) -> int:
        return sum(s == slot for _, s, _ in self.running)

    def total(self) -> int:
        return len(self.workers)

    def run(self, until_s: float, arrivals: list[float]) -> None:
        """Let time pass; requests come at the given times."""
        coming = deque(sorted(arrivals))
        next_look_s = self.now_s
        step_s = 0.005
        while self.now_s < until_s:
            while coming and coming[0] <= self.now_s:
                self.queue.append(coming.popleft())
                self.arrived += 1
            self._advance(step_s)
            if self.now_s >= next_look_s:
                self._look()
                next_look_s = self.now_s + (0.025 if self.queue else 0.1)
            self.now_s += step_s

    def _advance(self, step_s: float) -> None:
        for slot, (state, born_s) in self.workers.items():
            if state is WorkerState.STARTING and self.now_s - born_s >= self.boot_s:
                self.workers[slot] = (WorkerState.READY, born_s)
        while self.running and self.running[0][0] <= self.now_s:
            _, slot, took_s = heapq.heappop(self.running)
            self.ended += 1
            self.worked_s += took_s
        for slot, (state, _) in list(self.workers.items()):
            if state is WorkerState.DRAINING and not self.busy_of(slot):
                del self.workers[slot]
        ready = [s for s, (state, _) in self.workers.items() if state is WorkerState.READY]
        for slot in ready:
            for _ in range(min(self.policy.threads - self.busy_of(slot), len(self.queue))):
                self.waits_s.append(self.now_s - self.queue.popleft())
                heapq.heappush(self.running, (self.now_s + self.service_s, slot, self.service_s))
        self.busy_s += len(self.running) * step_s
        self.history.append((self.now_s, self.total()))

    def _look(self) -> None:
        seen = Observation(
            workers=tuple(
                WorkerSeen(slot, state, busy=self.busy_of(slot), spawned_s=born_s)
                for slot, (state, born_s) in self.workers.items()
            ),
            arrived=self.arrived,
            ended=self.ended,
            service_s=self.worked_s,
            busy_s=self.busy_s,
            accept_queue=len(self.queue),
            memory=self.memory,
        )
        actions = decide(seen, self.policy, self.now_s)
        self.memory = actions.memory
        for _ in range(actions.spawn):
            self.workers[self.next_slot] = (WorkerState.STARTING, self.now_s)
            self.next_slot += 1
        for slot in actions.revive:
            self.workers[slot] = (WorkerState.READY, self.workers[slot][1])
        for slot in actions.retire:
            self.workers[slot] = (WorkerState.DRAINING, self.workers[slot][1])
        self.spawns += actions.spawn + len(actions.revive)
        self.retires += len(actions.retire)

    def first_time_with(self, workers: int) -> float:
        return next(at_s for at_s, total in self.history if total >= workers)


def poisson(rate: float, start_s: float, end_s: float, seed: int) -> list[float]:
    rng = random.Random(seed)
    times, at_s = [], start_s
    while (at_s := at_s + rng.expovariate(rate)) < end_s:
        times.append(at_s)
    return times


def test_twelve_sleepers_on_one_small_worker_bring_all_six_within_half_a_second() -> None:
    simulation = Simulation(POLICY, service_s=0.2)
    simulation.run(1002.0, [])
    assert simulation.total() == 1
    simulation.run(1004.0, [1002.0] * 12)
    assert simulation.first_time_with(6) - 1002.0 < 0.25
    assert simulation.ended == 12
    simulation.run(1030.0, [])
    back_s = next(at_s for at_s, total in simulation.history if at_s > 1003 and total == 1)
    assert back_s - 1003.0 < 15
    assert simulation.retires == 5


def test_a_second_burst_soon_after_is_answered_and_forgotten_within_twenty_seconds() -> None:
    simulation = Simulation(POLICY, service_s=0.2)
    simulation.run(1016.0, [1002.0] * 12)
    simulation.run(1020.0, [1016.0] * 12)
    assert simulation.total() == 6
    simulation.run(1040.0, [])
    back_s = next(at_s for at_s, total in simulation.history if at_s > 1017 and total == 1)
    assert back_s - 1017.0 < 20


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sixfold_burst_is_met_in_half_a_second_and_p99_stays_near_the_service_time(
    threads: int,
) -> None:
    policy = Policy(min_workers=2, max_workers=16 // threads, threads=threads, usable_cores=2)
    simulation = Simulation(policy, service_s=0.1)
    load = poisson(5, 1000, 1010, 1) + poisson(120, 1010, 1025, 2) + poisson(5, 1025, 1060, 3)
    simulation.run(1060.0, load)
    needed = -(-12 // threads)
    assert simulation.first_time_with(needed) - 1010.0 < 0.5
    waits = sorted(simulation.waits_s)
    assert waits[int(0.99 * len(waits))] < 0.2
    assert simulation.total() <= 3


def test_steady_load_does_not_flap() -> None:
    policy = Policy(min_workers=2, max_workers=16, threads=1, usable_cores=2)
    simulation = Simulation(policy, service_s=0.1)
    simulation.run(1240.0, poisson(60, 1000, 1240, 4))
    # Poisson noise around 6 busy threads; ten spawns are the way up. The rules that keep
    # spare processes make 79 spawns and 78 retirements of the same load.
    assert simulation.spawns <= 35
    assert simulation.retires <= 25
    waits = sorted(simulation.waits_s)
    assert waits[int(0.99 * len(waits))] < 0.1


def test_constant_demand_leads_to_no_action_at_all_after_the_hold() -> None:
    simulation = Simulation(POLICY._replace(max_workers=16), service_s=0.1)
    regular = [1000 + tick / 40 for tick in range(40 * 60)]
    simulation.run(1020.0, [at_s for at_s in regular if at_s < 1020])
    before = (simulation.spawns, simulation.retires)
    simulation.run(1060.0, [at_s for at_s in regular if at_s >= 1020])
    assert (simulation.spawns, simulation.retires) == before


def test_waves_make_it_hold_on_longer_instead_of_flapping() -> None:
    policy = Policy(min_workers=2, max_workers=16, threads=1, usable_cores=2)
    simulation = Simulation(policy, service_s=0.1)
    load: list[float] = []
    for wave in range(8):
        load += poisson(100, 1000 + 20 * wave, 1010 + 20 * wave, wave)
    simulation.run(1160.0, load)
    # Without regret every wave would cost some ten spawns and ten retirements.
    assert simulation.retires <= 40
    waits = sorted(simulation.waits_s)
    assert waits[int(0.99 * len(waits))] < 0.4


# --- against workers that compute ---------------------------------------------------------


@dataclass
class Cores:
    """Clients that ask without a pause, workers that share the machine's cores.

    appetite: the share of a core that a worker takes if it has one for itself.
    waiting: requests that wait, whatever there is.
    """

    policy: Policy
    appetite: float
    waiting: int = 0
    busy: int = 1
    now_s: float = 1000.0
    ready: int = 1
    memory: Memory = field(default_factory=Memory)
    done: float = 0.0
    changes: list[float] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Look every 100 ms; a worker that is asked for is there at the next look."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 0.1
            wish = self.ready * self.appetite
            share = min(1.0, self.policy.usable_cores / wish) if wish else 1.0
            cpu, run_wait = self.appetite * share, 1 - share
            self.done += 0.1 * 100 * cpu * self.ready
            crew = tuple(
                WorkerSeen(
                    slot,
                    WorkerState.READY,
                    busy=self.busy,
                    cpu=cpu,
                    work=1.0,
                    run_wait=run_wait,
                    spawned_s=1000.0,
                )
                for slot in range(self.ready)
            )
            seen = Observation(
                crew,
                arrived=int(self.done) + self.busy * self.ready + self.waiting,
                ended=int(self.done),
                service_s=self.busy * self.ready * (self.now_s - 1000),
                busy_s=self.busy * self.ready * (self.now_s - 1000),
                accept_queue=self.waiting,
                machine_cpu=min(1.0, wish / self.policy.usable_cores),
                cpu_pressure=run_wait,
                cpu_look=CpuLook(wish, self.appetite) if self.waiting else None,
                memory=self.memory,
            )
            actions = decide(seen, self.policy, self.now_s)
            self.memory = actions.memory
            self.ready += actions.spawn - len(actions.retire)
            if actions.spawn or actions.retire:
                self.changes.append(self.now_s)


@settings(deadline=None, max_examples=40)
@given(
    cores=st.integers(1, 8),
    appetite=st.floats(0.0, 1.0),
    waiting=st.sampled_from([0, 0, 1, 20, 200]),
    threads=st.integers(1, 16),
    begin=st.integers(1, 12),
)
def test_under_constant_load_nothing_happens_once_it_has_settled(
    cores: int, appetite: float, waiting: int, threads: int, begin: int
) -> None:
    policy = Policy(min_workers=1, max_workers=12, threads=threads, usable_cores=cores)
    machine = Cores(policy, appetite, waiting, busy=threads if waiting else 1, ready=begin)
    # With each worker that goes a client goes here, so that it comes down a step at a time.
    machine.run(240)
    settled = len(machine.changes)
    machine.run(60)
    assert len(machine.changes) == settled


@pytest.mark.parametrize("cores", [1, 2, 4, 8])
@pytest.mark.parametrize("begin", [1, 12])
def test_workers_that_compute_become_as_many_as_there_are_cores(cores: int, begin: int) -> None:
    policy = Policy(min_workers=1, max_workers=12, threads=32, usable_cores=cores)
    machine = Cores(policy, appetite=1.0, busy=2, ready=begin)
    machine.run(60)
    # A quarter more are of use, one more may stay, and one more is not worth retiring.
    assert cores <= machine.ready <= ceil(1.25 * cores - 0.3) + 2


def test_clients_that_wait_for_workers_that_compute_bring_no_more_than_can_compute() -> None:
    policy = Policy(min_workers=1, max_workers=12, threads=2, usable_cores=2)
    machine = Cores(policy, appetite=1.0, waiting=200, busy=2)
    machine.run(30)
    assert 2 <= machine.ready <= 4
    sleepers = Cores(policy, appetite=0.02, waiting=200, busy=2)
    sleepers.run(30)
    assert sleepers.ready == 12


# --- shifting -----------------------------------------------------------------------------


@settings(deadline=None)
@given(observations())
def test_a_shift_goes_from_a_full_worker_to_another_one_that_serves(seen: Observation) -> None:
    shift = plan_shift(seen)
    if shift is None:
        return
    by_slot = {w.slot: w for w in seen.workers}
    source, target = by_slot[shift.source], by_slot[shift.target]
    assert source is not target
    assert min(1.0, source.cpu + source.run_wait) >= FULL
    assert target.cpu + target.run_wait < FULL
    assert 0 < shift.share <= 0.5
    for worker in (source, target):
        assert worker.state is WorkerState.READY
        assert worker.generation == seen.generation
        assert not worker.worn


def looks_of_pair(
    weights: tuple[list[float], list[float]], looks: int, rng: random.Random
) -> list[tuple[int, int]]:
    """Shift between two workers as the manager does; return (source, moved) of each shift.

    weights: of each connection of each worker, the share of a core that it asks for.
    """
    done: list[tuple[int, int]] = []
    for _ in range(looks):
        loads = [min(1.0, sum(mine)) for mine in weights]
        crew = tuple(
            WorkerSeen(slot, WorkerState.READY, cpu=loads[slot], connections=len(weights[slot]))
            for slot in range(2)
        )
        shift = plan_shift(Observation(crew))
        if shift is None:
            continue
        mine = weights[shift.source]
        rng.shuffle(mine)
        moving = int(shift.share * len(mine) + 0.25)  # as httpcore_srv.shift rounds
        for _ in range(moving):
            weights[shift.target].append(mine.pop())
        done.append((shift.source, moving))
    return done


@settings(deadline=None)
@given(st.integers(0, 64), st.integers(0, 64), st.floats(0.01, 1.0))
def test_connections_that_weigh_the_same_go_one_way_only_and_come_to_rest(
    here: int, there: int, weight: float
) -> None:
    weights = ([weight] * here, [weight] * there)
    moves = [move for move in looks_of_pair(weights, 30, random.Random(1)) if move[1]]
    assert len({source for source, _ in moves}) <= 1, "to and fro"
    # What one worker asks for beyond its core is not to be seen, so half of what it seems
    # to have more may be too little, several times.
    assert len(moves) <= 8
    ready = [min(1.0, sum(mine)) for mine in weights]
    if max(ready) >= FULL and max(map(len, weights)) > 3:
        assert max(ready) - min(ready) < 0.6


@settings(deadline=None)
@given(
    st.lists(st.floats(0.0, 0.3), min_size=4, max_size=40),
    st.lists(st.floats(0.0, 0.3), max_size=40),
    st.integers(0, 1000),
)
def test_connections_that_weigh_differently_do_not_swing_either(
    here: list[float], there: list[float], seed: int
) -> None:
    moves = [m for m in looks_of_pair((here, there), 60, random.Random(seed)) if m[1]]
    turns = sum(a[0] != b[0] for a, b in itertools.pairwise(moves))
    assert turns <= 3
    assert len(moves) <= 20
