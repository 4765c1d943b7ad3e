"""The version, said once for `--version`, the report of `--check` and the Server header."""

from __future__ import annotations

from typing import Final

# setup.cfg says the same; a test holds the two together. It is not read from the installed
# metadata because a fresh clone has none, and an older installation's would be wrong.
VERSION: Final = "0.1.0"
