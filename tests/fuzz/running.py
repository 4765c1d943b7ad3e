"""From a target to libFuzzer, with the corpus as seeds."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

from tests.corpus.cases import CORPUS, connections
from tests.corpus.mutation import MUTATIONS

LONGEST = 2048  # of an input; longer seeds are cut off
OTHERS = connections(LONGEST)


def run(target: Callable[[bytes], None], arguments: list[str]) -> None:
    """Fuzz `target` with the files of the corpus as seeds; does not return.

    arguments: libFuzzer's options and directories. New inputs are kept only if a directory is
    given; the corpus itself is read where it lies and never written.
    """
    seeds = sorted(CORPUS.glob("*/*.http"))
    with tempfile.NamedTemporaryFile("w", prefix="seeds-") as names:
        names.write(",".join(map(str, seeds)))
        names.flush()
        defaults = [
            f"-seed_inputs=@{names.name}",
            f"-artifact_prefix={Path(tempfile.gettempdir())}/",
            f"-max_len={LONGEST}",
            "-timeout=25",
        ]
        # What is said last counts.
        atheris.Setup([sys.argv[0], *defaults, *arguments], target, custom_mutator=mutate)
        atheris.Fuzz()


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change an input as libFuzzer does, or as one who knows HTTP would."""
    random = Random(seed)
    if random.randrange(2):
        return bytes(atheris.Mutate(data, max_size))
    return random.choice(MUTATIONS)(random, data, OTHERS)[:max_size]
