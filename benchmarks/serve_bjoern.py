"""Serve an application with bjoern, which brings no command of its own.

python -m benchmarks.serve_bjoern MODULE:CALLABLE PORT
"""

from __future__ import annotations

import importlib
import sys

import bjoern


def main() -> None:
    """Serve until the process is ended."""
    module, _, attribute = sys.argv[1].partition(":")
    application = getattr(importlib.import_module(module), attribute)
    bjoern.run(application, "127.0.0.1", int(sys.argv[2]))


if __name__ == "__main__":
    main()
