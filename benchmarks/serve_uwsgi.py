"""Serve an application with uWSGI as pyuwsgi brings it.

python -m benchmarks.serve_uwsgi OPTIONS --wsgi MODULE:CALLABLE
"""

from __future__ import annotations

import sys

import pyuwsgi

_QUIET = ("--disable-logging", "--die-on-term", "--need-app")


def main() -> None:
    """Serve until the process is ended."""
    pyuwsgi.run([*_QUIET, *sys.argv[1:]])


if __name__ == "__main__":
    main()
