"""Access log in the combined format of Apache and nginx, one write(2) for many lines."""

from __future__ import annotations

import logging
import os
import re
import time
from collections import deque
from typing import Final

from httpcore_srv.errors import BindError
from httpcore_srv.messages import RequestHead

log = logging.getLogger("smart_http.worker")

# What a client sends must be able to forge neither a line nor a field of one.
_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]")
_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)


def open_access_log(path: str | None) -> int | None:
    """Open the file for appending; `-` is standard error, None is no log.

    Raises: BindError (one line, exit status 2) if it cannot be opened.
    """
    if path is None:
        return None
    if path == "-":
        return 2
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BindError(
            f"cannot write the access log {path}: {error.strerror}; choose another --access-log"
        ) from None


# What is noted of a request: peer, head (None: what came was no request), status line, bytes of
# content, seconds since the epoch.
_Entry = tuple[str, RequestHead | None, str, int, float]


class AccessLog:
    """Collects what happened and writes lines of it to a descriptor opened with O_APPEND.

    Lines are made when they are written, after the responses of a batch have gone out: what
    is done for a request itself is one `append`. Any thread may record and flush: a deque's
    `append` and `popleft` are single steps, and each flush writes what it has taken out by
    itself.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._entries: deque[_Entry] = deque()
        self._stamp = (0, "")  # the last one: seconds, text. Replaced whole, by any thread
        self._failing = False

    def record(self, peer: str, request: RequestHead, status: str, sent: int) -> None:
        """Note one request that was answered: with which status line, and bytes of content."""
        self._entries.append((peer, request, status, sent, time.time()))

    def refused(self, peer: str, status: int) -> None:
        """Note a refusal: what came was no request."""
        self._entries.append((peer, None, str(status), 0, time.time()))

    def flush(self) -> None:
        """Write what has been recorded. Lines are whole even if processes share the file."""
        lines = []
        for _ in range(len(self._entries)):
            try:
                entry = self._entries.popleft()
            except IndexError:  # another thread writes, too
                break
            lines.append(self._line(*entry))
        if not lines:
            return
        try:
            os.write(self._fd, "".join(lines).encode("latin-1"))
            self._failing = False
        except OSError as error:  # a full disk: serving goes on without the log
            if not self._failing:
                log.error("access log lines are lost: %s", error.strerror)
            self._failing = True

    def _line(
        self, peer: str, request: RequestHead | None, status: str, sent: int, time_s: float
    ) -> str:
        start = f"{peer or '-'} - - [{self._time(int(time_s))}]"
        if request is None:
            return f'{start} "-" {status} 0 "-" "-"\n'
        fields = request.fields.environ
        return (
            f'{start} "{_safe(request.method)} {_safe(request.target)} HTTP/1.{request.minor}" '
            f"{status[:3]} {sent} "
            f'"{_safe(fields.get("HTTP_REFERER", "-"))}" '
            f'"{_safe(fields.get("HTTP_USER_AGENT", "-"))}"\n'
        )

    def _time(self, now_s: int) -> str:
        stamp_s, stamp = self._stamp
        if stamp_s != now_s:
            now = time.localtime(now_s)
            stamp = (
                f"{now.tm_mday:02}/{_MONTHS[now.tm_mon - 1]}/{now.tm_year}"
                f":{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02} {time.strftime('%z', now)}"
            )
            self._stamp = now_s, stamp
        return stamp


def _safe(value: str) -> str:
    return _UNSAFE.sub(lambda match: f"\\x{ord(match[0]):02x}", value)
