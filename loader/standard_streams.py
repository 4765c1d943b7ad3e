"""Descriptors 0, 1 and 2 stay what everybody takes them for."""

from __future__ import annotations

import os


def hold_standard_descriptors() -> None:
    """Put /dev/null where standard input, output or error was closed (`2>&-`).

    The next socket would get the number otherwise, and whoever writes to standard error by
    its number (a C library, a traceback at the very end) would write to a client.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
