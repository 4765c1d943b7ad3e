"""The 100 MB file that is sent, and the check that large contents arrive as they were."""

from __future__ import annotations

import functools
import os
import tempfile
import zlib
from typing import IO

from benchmarks.apps import FILE_BYTES, FILE_VARIABLE, content


def offer_file() -> None:
    """Make the file, and have this process and its children know its path (FILE_VARIABLE)."""
    os.environ[FILE_VARIABLE] = _file().name


@functools.cache
def checksum(length: int) -> int:
    """Return the CRC-32 of `apps.content(length)`."""
    sum_ = 0
    for block in content(length):
        sum_ = zlib.crc32(block, sum_)
    return sum_


@functools.cache
def _file() -> IO[bytes]:
    """Return the file; it is gone when this process ends."""
    made = tempfile.NamedTemporaryFile(prefix="benchmark-")  # noqa: SIM115  lives on
    os.chmod(made.name, 0o644)  # Apache's processes run as another user
    made.writelines(content(FILE_BYTES))
    made.flush()
    return made
