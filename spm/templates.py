"""Templates as the manager sees them: one per generation, replaced when it dies.

LOADING --ready--> READY --retire--> RETIRING (until its last worker has left)
   |                 |                   |
 failed            died                ended
   v                 v                   v
 gone       a successor of the        gone
            same generation is LOADING
"""

from __future__ import annotations

import enum
import logging

from .exit_status import ExitStatus
from .ports import OperatingSystem

_log = logging.getLogger("smart_http.spm")

_BACKOFF_S = 0.5
_BACKOFF_MAX_S = 30.0


class TemplateState(enum.Enum):
    """Where a template stands."""

    LOADING = "loading"
    READY = "ready"
    RETIRING = "retiring"


class TemplateHandle:
    """One template process."""

    def __init__(self, number: int, generation: int, started_ns: int) -> None:
        self.number = number
        self.generation = generation
        self.started_ns = started_ns
        self.state = TemplateState.LOADING
        self.message = ""  # why its import failed
        self.exit_status: int | None = None
        self.killed = False


class Templates:
    """All templates that exist, and the one from which workers are forked."""

    def __init__(self, system: OperatingSystem) -> None:
        self._system = system
        self._number = 0
        self._all: dict[int, TemplateHandle] = {}
        self._failures = 0
        self._retry_ns = 0

    def __len__(self) -> int:
        return len(self._all)

    def find(self, number: int) -> TemplateHandle | None:
        """Return the template with this number, if it exists."""
        return self._all.get(number)

    def all(self) -> list[TemplateHandle]:
        """Return all that exist."""
        return list(self._all.values())

    def ready_for(self, generation: int) -> TemplateHandle | None:
        """Return the template that forks workers of this generation now."""
        return next(
            (
                t
                for t in self._all.values()
                if t.generation == generation and t.state is TemplateState.READY
            ),
            None,
        )

    def start(self, generation: int) -> TemplateHandle:
        """Fork a template. Raises: OSError if there cannot be another process."""
        self._number += 1
        now_ns = self._system.now_ns()
        self._system.start_template(self._number)
        handle = TemplateHandle(self._number, generation, now_ns)
        self._all[self._number] = handle
        return handle

    def keep_one_for(self, generation: int) -> bool:
        """See to it that this generation has a template; return whether it is waited for.

        After a template has died, or could not import what it could before.
        """
        mine = [t for t in self._all.values() if t.generation == generation]
        if any(t.state is not TemplateState.RETIRING for t in mine):
            return any(t.state is TemplateState.LOADING for t in mine)
        if self._system.now_ns() < self._retry_ns:
            return True
        try:
            self.start(generation)
        except OSError as error:
            _log.error("no template could be forked: %s", error)
            self._back_off()
        return True

    def note_ready(self, number: int) -> TemplateHandle | None:
        """The template can fork workers."""
        handle = self._all.get(number)
        if handle is not None and handle.state is TemplateState.LOADING:
            handle.state = TemplateState.READY
            self.forget_failures()
        return handle

    def note_failed(self, number: int, message: str, exit_status: int | None) -> None:
        """The template could not import the application; it is about to end."""
        handle = self._all.get(number)
        if handle is not None:
            handle.message, handle.exit_status = message, exit_status

    def note_ended(self, number: int, status: ExitStatus | None) -> TemplateHandle | None:
        """The template's process is gone; return what it was."""
        handle = self._all.pop(number, None)
        if handle is None:
            return None
        if handle.state is TemplateState.LOADING:
            self._back_off()
            if not handle.message:
                how = status if status is not None else "cause unknown"
                handle.message = f"the process ended while it loaded the application: {how}"
        elif handle.state is TemplateState.READY:
            _log.warning("the template died (%s); its workers go on", status)
        return handle

    @property
    def waiting(self) -> bool:
        """Whether one is loading, or retiring and not yet gone."""
        return any(t.state is not TemplateState.READY for t in self._all.values())

    @property
    def failures(self) -> int:
        """How many templates in a row could not import the application."""
        return self._failures

    def retire(self, handle: TemplateHandle) -> None:
        """A template that is to end as soon as it has nobody to reap."""
        if handle.state is TemplateState.LOADING:
            self.kill(handle)
        handle.state = TemplateState.RETIRING

    def forget_failures(self) -> None:
        """Let the next template start at once."""
        self._failures = 0
        self._retry_ns = 0

    def kill(self, handle: TemplateHandle) -> None:
        """End one that is loading; nothing but SIGKILL is heard during an import."""
        handle.killed = True
        self._system.kill_template(handle.number)

    def _back_off(self) -> None:
        self._failures += 1
        pause_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** min(self._failures, 16))
        self._retry_ns = self._system.now_ns() + int(pause_s * 1e9)
