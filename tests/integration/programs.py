"""Programs that tests drive: found where they may lie, run with a bound, skipped if missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

import pytest

from tests.integration.server_process import PATIENCE_S

# Programs of the administrator: a user's PATH need not lead there.
_MORE_PLACES: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
# The Debian packages that have another name than the program.
_PACKAGES: Final = {"ab": "apache2-utils", "nginx": "nginx-light"}


def find_program(name: str) -> str:
    """Return the path of a program; skip the test if it is not installed."""
    places = [os.environ.get("PATH", os.defpath), *_MORE_PLACES]
    path = shutil.which(name, path=os.pathsep.join(places))
    if path is None:
        pytest.skip(f"{name} is not installed (Debian package {_PACKAGES.get(name, name)})")
    return path


def run(*command: str, within_s: float = PATIENCE_S) -> str:
    """Run a program that is expected to succeed; return what it says on standard output."""
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    assert ended.returncode == 0, f"{command} ends with {ended}"
    return ended.stdout
