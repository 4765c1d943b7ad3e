"""Any octets to a Connection: `python -m tests.fuzz.fuzz_connection [libFuzzer options]`."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

with atheris.instrument_imports(include=["httpcore_srv", "tests.corpus.reference"]):
    from tests.fuzz.targets import check_connection

from tests.fuzz.running import run

if __name__ == "__main__":
    run(check_connection, sys.argv[1:])
