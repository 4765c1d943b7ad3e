"""Serve an application with fastpysgi, whose own command cannot raise its limits.

python -m benchmarks.serve_fastpysgi MODULE:CALLABLE PORT [--max-content-length BYTES]
"""

from __future__ import annotations

import importlib
import sys

import fastpysgi


def main() -> None:
    """Serve until the process is ended."""
    module, _, attribute = sys.argv[1].partition(":")
    application = getattr(importlib.import_module(module), attribute)
    if sys.argv[3:4] == ["--max-content-length"]:
        fastpysgi.server.max_content_length = int(sys.argv[4])
    fastpysgi.run(application, "127.0.0.1", int(sys.argv[2]))


if __name__ == "__main__":
    main()
