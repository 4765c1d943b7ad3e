"""What a start imports: each module that is not needed then is time until the first answer."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.documents import ROOT

# Needed by a test, a benchmark or one option at most, and expensive to import.
NOT_AT_START = {
    "asyncio",
    "concurrent.futures",
    "email.message",
    "http.client",
    "importlib.metadata",
    "multiprocessing",
    "psutil",
    "ssl",
    "subprocess",
    "sysconfig",
    "unittest",
    "urllib.request",
    "watchfiles",
    "werkzeug",
    "wsgiref.types",
}
# Generating a dataclass runs the compiler, 0.3 to 1 ms each: 59 of them were 30 ms of a start.
# A NamedTuple is a fifth of that, a class with an __init__ next to nothing.
MOST_DATACLASSES = 7

CODE = """
import dataclasses, json, sys
import main
made = {
    f"{thing.__module__}.{thing.__qualname__}"
    for module in list(sys.modules.values())
    if module.__name__.split(".")[0] in ("spm", "loader", "httpcore_srv")
    for thing in vars(module).values()
    if isinstance(thing, type) and dataclasses.is_dataclass(thing)
}
print(json.dumps([sorted(sys.modules), sorted(made)]))
"""


def test_a_start_imports_nothing_that_it_does_not_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    modules, dataclasses = json.loads(done.stdout)
    assert not NOT_AT_START & set(modules)
    assert len(dataclasses) <= MOST_DATACLASSES, dataclasses
