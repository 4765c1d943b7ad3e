"""The run: every load on every rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.simulation.figures import Figures, Sample
from benchmarks.simulation.loads import Limits, Load
from benchmarks.simulation.pool import Pool, Rule
from benchmarks.simulation.rivals import rivals
from benchmarks.simulation.smart import NAME, Smart, policy_of
from spm.policy import Policy

Change = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One load on one rule.

    runs: the figures of each seed. samples: the curve of the first one.
    decide_us: real time of one call; None if there was none.
    """

    load: str
    rule: str
    runs: Sequence[Figures]
    samples: Sequence[Sample]
    decide_us: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be simulated.

    seeds: each makes a run with requests, boot times and deaths of its own.
    changes: other constants for decide(); each makes a rule of its own.
    rules: names of the rules wanted; empty: all.
    """

    loads: Sequence[Load]
    limits: Limits
    seeds: Sequence[int] = (1,)
    changes: Sequence[Change] = ()
    rules: Sequence[str] = ()

    def rules_for(self, load: Load) -> list[Rule]:
        """Return the rules, new."""
        policy = policy_of(self.limits, preload=load.preload)
        ours = [Smart(policy)]
        ours += [Smart(changed(policy, change), name_of(change)) for change in self.changes]
        others = rivals(load, self.limits)
        return [rule for rule in (*ours, *others) if wanted(rule.name, self.rules)]


def wanted(name: str, chosen: Sequence[str]) -> bool:
    """Whether a rule was chosen: by the beginning of its name, or as nothing was."""
    return not chosen or any(name.startswith(start) for start in chosen)


def name_of(change: Change) -> str:
    """Return what a rule with other constants is called."""
    return " ".join([NAME, *(f"{name}={value:g}" for name, value in change.items())])


def changed(policy: Policy, change: Change) -> Policy:
    """Return the policy with other constants.

    Raises: KeyError, with the name, if there is no such constant.
    """
    kinds = {name: type(value) for name, value in policy._asdict().items()}
    # An int where one is wanted: half a worker is none.
    return policy._replace(**{name: kinds[name](value) for name, value in change.items()})


def run(plan: Plan, tell: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
    """Simulate everything; `tell` hears of each outcome."""
    outcomes = []
    for load in plan.loads:
        # Rules remember, so each seed has rules of its own; here one rule of all seeds a row.
        for rules in zip(*(plan.rules_for(load) for _ in plan.seeds), strict=True):
            outcomes.append(_outcome(plan, load, rules))
            tell(outcomes[-1])
    return outcomes


def _outcome(plan: Plan, load: Load, rules: Sequence[Rule]) -> Outcome:
    pools = [
        Pool(load, plan.limits, rule, seed) for rule, seed in zip(rules, plan.seeds, strict=True)
    ]
    figures = []
    samples: Sequence[Sample] = ()
    for pool in pools:
        figures.append(pool.run())
        samples = samples or pool.notes.samples
    ours = [rule for rule in rules if isinstance(rule, Smart)]
    calls = sum(rule.calls for rule in ours)
    cost_us = sum(rule.decide_s for rule in ours) / calls * 1e6 if calls else None
    return Outcome(load.name, rules[0].name, figures, samples, cost_us)
