"""The server's own log: logger `smart_http` on standard error.

The root logger is the application's and stays as it is.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Final

# All but tab and line feed; C1 controls, too.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LIKE_A_RECORD: Final = re.compile(r"\n(?=[0-9])")

LOGGER: Final = "smart_http"

_COLOURS: Final[Mapping[int, str]] = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
_PLAIN: Final = "\x1b[0m"


class LineHandler(logging.Handler):
    """Writes each record with one write(2), so that lines of several processes stay whole.

    logging.StreamHandler writes text and line end into a buffered stream; two workers would
    then cut each other's lines. A pipe keeps up to PIPE_BUF (4096) bytes together, a file
    opened for appending any number (pipe(7), write(2)).
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        try:
            written = os.write(self._fd, line)
            while written < len(line):  # a full disk or a signal may stop it half-way
                written += os.write(self._fd, line[written:])
        except OSError:
            # The terminal is gone, or the pipe's reader: a server does not stop serving
            # because nobody can read its log, and there is nowhere left to say so.
            return


class LineFormatter(logging.Formatter):
    """`2025-01-31T12:00:00.123+01:00 [4711] info: message`, then a traceback if there is one."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text without a line end at its end."""
        level = record.levelname.lower()
        if self._colour and record.levelno in _COLOURS:
            level = f"{_COLOURS[record.levelno]}{level}{_PLAIN}"
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return f"{_iso_time(record.created)} [{os.getpid()}] {level}: {_harmless(text)}"


def _harmless(text: str) -> str:
    """Return text that can forge neither a record nor what a terminal obeys.

    An exception may quote a client: control characters are escaped, and a line that begins
    as a record would is indented.
    """
    shown = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return _LIKE_A_RECORD.sub("\n  ", shown)


def configure(level: str = "info", *, fd: int = 2) -> None:
    """Set the logger up, or anew.

    level: debug, info, warning, error or critical.
    fd: where to write; it stays the caller's.
    """
    handler = LineHandler(fd)
    handler.setFormatter(LineFormatter(colour=_wants_colour(fd)))
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False  # the root's handlers are the application's, with its own format


def _wants_colour(fd: int) -> bool:
    # no-color.org: any non-empty value turns colour off.
    return os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _iso_time(seconds: float) -> str:
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", local)
    return f"{stamp}.{int(seconds % 1 * 1000):03d}{zone[:3]}:{zone[3:]}"
