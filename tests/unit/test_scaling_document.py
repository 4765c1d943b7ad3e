"""docs/scaling.md names what there is, with the figures that the code has."""

from __future__ import annotations

import re

import pytest

from loader.options import BY_NAME
from spm import SPMS, cpu_rules, journal, manager
from spm.policy import Policy
from spm.readout import Readout, WorkerLine
from tests.documents import ROOT
from tests.fakes.server import serving

TEXT = (ROOT / "docs/scaling.md").read_text()
POLICY = Policy(min_workers=1, max_workers=4, threads=1)
MS = 1_000_000


def numbers_table() -> str:
    return TEXT.split("## What the numbers mean", 1)[1].split("\n## ", 1)[0]


def test_it_is_short() -> None:
    assert TEXT.count("\n") <= 150


def test_every_option_that_it_names_exists() -> None:
    options = set(re.findall(r"--([a-z][a-z-]+)", TEXT))
    elsewhere = {"json", "cpus"}  # of `status` and of docker
    assert options - elsewhere <= set(BY_NAME)
    assert {"max-workers", "max-threads", "memory-limit"} <= options


def test_every_key_that_it_explains_is_in_the_readout() -> None:
    with serving() as server:
        server.run(1)
        values = server.readout().as_dict()
    first_cells = re.findall(r"^\| (`[^|]*) \|", numbers_table(), re.MULTILINE)
    keys = [key for cell in first_cells for key in re.findall(r"`([^`]+)`", cell)]
    assert len(keys) > 10
    for key in keys:
        if key.startswith("machine."):
            assert key.partition(".")[2] in values["machine"]
        elif key.startswith("workers[]."):
            assert key.partition(".")[2] in WorkerLine._fields
        else:
            assert key in Readout._fields, key


def test_every_reason_that_it_explains_is_given_by_the_code() -> None:
    sources = "\n".join(
        (ROOT / "spm" / f"{name}.py").read_text() for name in ("policy", "manager", "recycling")
    )
    for words in (
        " wants ",
        " waiting",
        "the core of every worker is full: CPU wants ",
        " of at least ",
        "in place of slot ",
        "; its replacement is ready",
        " requests",
        " s of age",
        " MB of memory",
        " threads that are stuck",
        "the new generation is to be ",
        "the peak of ",
        "memory allows ",
        "its core is full",
        "take back",
    ):
        assert words in sources, words
        assert words.strip() in TEXT, words


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (POLICY.window_s, "over the last {:g} s"),
        (POLICY.drain_s, "what waits within {:g} s"),
        (1000 * POLICY.persist_s, "at every look for {:g} ms"),
        (POLICY.hold_s, "the busiest moment of the last {:g} s"),
        (POLICY.hold_max_s, "become {:g} s"),
        (POLICY.step_s, "each {:g} s; never"),
        (100 * cpu_rules.FULL, "above {:g} % of a core"),
        (POLICY.cpu_persist_s, "of a core for {:g} s"),
        (POLICY.backoff_max_s, "{:g} s at the most before they served"),
        (POLICY.young_backoff_max_s, "{:g} s after)"),
        (manager._TICK_NS / MS, "every {:g} ms; every second"),
        (manager._WAITING_TICK_NS / MS, "every {:g} ms while something waits"),
        (manager._POKE_GAP_NS / MS, "no sooner than {:g} ms"),
        (SPMS().memory_reserve_bytes >> 20, "less than {:g} MB available"),
        (journal._ENTRIES, "the last {:g} are in the readout"),
    ],
)
def test_every_figure_is_that_of_the_code(figure: float, words: str) -> None:
    assert words.format(figure) in TEXT


def test_figures_in_words_are_those_of_the_code() -> None:
    assert manager._QUIET_TICK_NS == 1000 * MS
    assert POLICY.step_share == 0.25  # "a quarter"
    assert POLICY.spare == 1.0  # "plus its square root"
    assert POLICY.give_up_after == 5  # "five in a row"
    for cores in (1, 2, 3, 8):
        assert Policy.of(SPMS(), cores).starting_limit == max(4, 2 * cores)
        assert Policy.of(SPMS(preload=False), cores).starting_limit == max(8, 4 * cores)
