"""Presence: how a server that runs is found: pid file, control socket, a line on the log."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

from .control import ControlServer
from .pid_file import PidFile
from .settings import SPMS

_log = logging.getLogger("smart_http.spm")


class Presence:
    """What shows where this server is, from appear() to vanish().

    describe: what is said of it; `binds` is a list of addresses.
    """

    def __init__(
        self,
        settings: SPMS,
        control: ControlServer,
        describe: Callable[[], Mapping[str, object]],
    ) -> None:
        self._control = control
        self._control_path = settings.control_path
        self._pid_file = PidFile(settings.pid_file) if settings.pid_file else None
        self._describe = describe

    def appear(self, predecessor: int) -> None:
        """Be the one that is found.

        predecessor: pid of the server that this one replaces, 0 for none.
        Raises: BootFailed.
        """
        if self._pid_file is not None:
            self._pid_file.claim(predecessor)
        self._control.open(self._control_path, replace=predecessor > 0)
        self._announce()

    def reappear(self) -> None:
        """Be it again, after a successor that has failed."""
        if self._pid_file is not None:
            self._pid_file.restore()

    def vanish(self) -> None:
        """Leave no trace."""
        self._control.close()
        if self._pid_file is not None:
            self._pid_file.release()

    def _announce(self) -> None:
        """Say who serves what, and where: the line a person waits for."""
        about = self._describe()
        binds = about.get("binds", ())
        _log.info(
            "%s %s serves %s: listening on %s (pid %d; Ctrl+C stops)",
            about.get("name", "server"),
            about.get("version", ""),
            about.get("target", "the application"),
            ", ".join(map(str, binds)) if isinstance(binds, list | tuple) else binds,
            os.getpid(),
        )
