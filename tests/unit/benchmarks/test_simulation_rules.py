"""The rules under the simulated loads: bounds, nothing lost, and known figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.simulation.figures import Figures
from benchmarks.simulation.loads import NAMES, Limits, Load, loads
from benchmarks.simulation.pool import Pool, Rule
from benchmarks.simulation.profile import Profile
from benchmarks.simulation.rivals import Prefork, UwsgiBusyness, UwsgiSpare, enough_for
from benchmarks.simulation.run import Plan, changed, run
from benchmarks.simulation.smart import Smart, policy_of

LIMITS = Limits.of(16, 1)
STEP = loads(LIMITS)["step"]
STEADY = loads(LIMITS)["steady"]


def outcome_of(rule: Rule, load: Load = STEP, limits: Limits = LIMITS) -> Figures:
    return Pool(load, limits, rule).run()


@pytest.mark.parametrize("limits", [LIMITS, Limits.of(8, 2), Limits.of(1, 1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_no_rule_leaves_the_limits_or_loses_a_request(name: str, limits: Limits) -> None:
    load = loads(limits, quick=True)[name]
    arrived = set()
    for rule in Plan([load], limits).rules_for(load):
        pool = Pool(load, limits, rule)
        figures = pool.run()
        assert limits.min_workers <= figures.least <= figures.most <= limits.max_workers
        assert figures.unserved == len(pool.queue) + pool.running
        assert figures.arrived > 0
        assert not figures.gave_up
        arrived.add(figures.arrived)
    if not load.clients:
        assert len(arrived) == 1  # all saw the same requests


@pytest.mark.parametrize("name", NAMES)
def test_decide_serves_everything_in_the_end(name: str) -> None:
    load = loads(LIMITS, quick=True)[name]
    figures = outcome_of(Smart(policy_of(LIMITS, preload=load.preload)), load)
    assert figures.unserved == 0
    assert figures.answered == figures.arrived - figures.broken


def test_the_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    chosen = [load for load in loads(LIMITS, quick=True).values() if load.name != "day"]
    plan = Plan(chosen, LIMITS, seeds=(5,))
    first, again = ([(o.runs, o.samples) for o in run(plan)] for _ in range(2))
    assert first == again
    others = [o.runs for o in run(replace(plan, seeds=(6, 5)))]
    assert [[runs[1]] for runs in others] == [runs for runs, _ in first]
    assert all(runs[0] != runs[1] for runs in others if runs[0].load != "cpu-closed")


def test_apache_takes_four_looks_to_meet_a_sixfold_burst() -> None:
    # A simulation of another make had 3.0 s and 1395 ms, its clock set for the best; the
    # real server took 3.75 s and 1956 ms.
    figures = outcome_of(Prefork(2, 4))
    assert figures.enough_s is not None
    assert 3.0 <= figures.enough_s <= 4.0
    assert 1.2 < figures.latency_p99_s < 2.2
    assert figures.most == 16


def test_apache_never_comes_to_rest_under_a_steady_load() -> None:
    figures = outcome_of(Prefork(2, 4), STEADY)
    assert 60 < figures.spawns < 110
    assert 60 < figures.retirements < 110
    assert figures.oscillations > 30


@pytest.mark.parametrize(
    ("rule", "least_s", "most_s"),
    [(UwsgiBusyness(3, 1, 33), 9.0, 10.5), (UwsgiBusyness(1, 4, 8), 2.0, 3.5)],
    ids=["defaults", "tuned"],
)
def test_busyness_takes_as_long_as_the_real_one(rule: Rule, least_s: float, most_s: float) -> None:
    # Measured: 9.74 and 2.74 s, and 13 of 16 workers still there half a minute later.
    figures = outcome_of(rule)
    assert figures.enough_s is not None
    assert least_s < figures.enough_s < most_s
    assert figures.down_s is None


def test_spare_with_its_defaults_never_catches_up() -> None:
    figures = outcome_of(UwsgiSpare(3, 1))
    assert figures.enough_s is not None
    assert figures.enough_s >= 15.0  # as long as the burst
    assert figures.latency_p99_s > 10
    tuned = outcome_of(UwsgiSpare(1, 4))  # measured: 5.75 s
    assert tuned.enough_s == pytest.approx(5.75, abs=0.5)


def test_decide_meets_the_burst_in_half_a_second_and_comes_down_again() -> None:
    figures = outcome_of(Smart(policy_of(LIMITS)))
    assert figures.enough_s is not None
    assert figures.enough_s <= 0.5
    assert figures.latency_p99_s <= 0.25
    assert figures.down_s is not None
    assert figures.down_s <= 15


def test_decide_is_given_the_processor_time_of_the_workers() -> None:
    load = replace(loads(LIMITS, quick=True)["cpu-open"], cpu_share=1.0)
    seen: list[float] = []

    class Watching(Smart):
        def look(self, pool: Pool) -> float:
            next_s = super().look(pool)
            seen.append(sum(worker.cpu for worker in pool.workers.values()))
            return next_s

    outcome_of(Watching(policy_of(LIMITS)), load)
    # 70 requests/s of 20 ms: 1.4 cores, in pieces of half a second.
    assert 0.7 < sorted(seen)[len(seen) // 2] < 1.9


def test_other_constants_make_another_rule_and_half_workers_are_none() -> None:
    policy = changed(policy_of(LIMITS), {"starting_limit": 2.0, "spare": 0.5})
    assert (policy.starting_limit, policy.spare) == (2, 0.5)
    assert isinstance(policy.starting_limit, int)
    with pytest.raises(KeyError, match="spares"):
        changed(policy, {"spares": 1})
    plan = Plan([loads(LIMITS, quick=True)["step"]], LIMITS, changes=[{"spare": 0.0}])
    found = {outcome.rule: outcome.runs[0] for outcome in run(plan)}
    assert found["smart spare=0"].worker_s < found["smart"].worker_s


def test_rules_are_chosen_by_the_beginning_of_their_names() -> None:
    plan = Plan([STEP], LIMITS, rules=("smart", "fixed"))
    names = [rule.name for rule in plan.rules_for(STEP)]
    assert names == ["smart", "fixed at maximum", "fixed at need"]


def test_what_a_profile_needs_is_within_the_limits() -> None:
    assert [STEP.need_at(time_s, LIMITS) for time_s in (0.0, 10.0, 24.9, 25.0)] == [2, 12, 12, 2]
    assert enough_for(STEP, LIMITS) == 16  # 12 threads and a reserve of their square root
    assert enough_for(STEADY, LIMITS) == 9
    flood = replace(STEP, profile=Profile(((0.0, 1e6), (1.0, 1e6))))
    assert flood.need_at(0.5, LIMITS) == enough_for(flood, LIMITS) == 16
