"""Closed standard descriptors are held open, so that no socket gets their numbers."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.documents import ROOT

PROGRAM = """
import os, socket, sys
from loader import hold_standard_descriptors
hold_standard_descriptors()
names = [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)]
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(out, f"{names} {socket.socket().fileno() > 2}".encode())
"""


@pytest.mark.parametrize("closed", [(), (2,), (0, 1, 2), (1,)])
def test_what_is_closed_becomes_dev_null_and_what_is_open_stays(
    closed: tuple[int, ...], tmp_path: object
) -> None:
    report = f"{tmp_path}/report"
    redirections = " ".join(f"{number}>&-" for number in closed)
    command = f'exec "$0" -c "$1" "$2" {redirections}'
    subprocess.run(
        ["sh", "-c", command, sys.executable, PROGRAM, report],
        cwd=ROOT,
        input=b"",
        capture_output=True,
        check=True,
        timeout=30,
    )
    with open(report) as file:
        names, sockets_are_higher = file.read().rsplit(" ", 1)
    assert sockets_are_higher == "True"
    places = ast.literal_eval(names)
    seen = [number for number in (0, 1, 2) if places[number] == "/dev/null"]
    assert seen == list(closed)
