"""This tree's server beside that of another revision, with the applications of this tree."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.server import ROOT, Server
from benchmarks.servers import OURS, ours


class RevisionError(Exception):
    """There is no such revision here."""


@contextmanager
def revision(name: str) -> Iterator[Server]:
    """Give the server of a revision; its files are gone behind the block.

    They are taken out of git's store into a temporary directory, without a worktree: git keeps
    no record of it that a run which is killed could leave behind.
    Raises: RevisionError.
    """
    commit = _git("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}").strip()
    short = _git("rev-parse", "--short", commit).strip()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        archive, root = Path(directory, "archive.tar"), Path(directory, short)
        _git("archive", f"--output={archive}", commit)
        with tarfile.open(archive) as packed:
            packed.extractall(root, filter="data")
        if not (root / "main.py").exists():
            raise RevisionError(f"{name} has no main.py")
        yield ours(root, f"{OURS}@{short}")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise RevisionError("git is not installed") from error
    if done.returncode:
        raise RevisionError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout
