"""What the system can tell the manager, as values.

The manager lives on these alone, so that a test can play the system. Templates are known
by a number and workers by their incarnation: both are never used twice, so news that
arrive late cannot be taken for news of a successor.
"""

from __future__ import annotations

from typing import NamedTuple

from .exit_status import ExitStatus


class SignalCame(NamedTuple):
    """Somebody outside sent a signal to the manager."""

    number: int


class TemplateReady(NamedTuple):
    """The template has imported the application and can fork workers."""

    template: int


class TemplateFailed(NamedTuple):
    """The application could not be imported; the template is about to end."""

    template: int
    message: str
    exit_status: int | None


class TemplateEnded(NamedTuple):
    """The template's process is gone."""

    template: int
    status: ExitStatus | None


class WorkerForked(NamedTuple):
    """The template has forked a worker; its pidfd is being watched."""

    slot: int
    incarnation: int
    pid: int


class ForkFailed(NamedTuple):
    """The template could not fork (no memory, too many processes)."""

    slot: int
    incarnation: int
    reason: str


class WorkerEnded(NamedTuple):
    """The worker's process is gone, or was never there: its slot is nobody's."""

    slot: int
    incarnation: int
    status: ExitStatus | None = None


class WorkerReaped(NamedTuple):
    """The template has collected the exit status of a worker, alive in nobody's eyes."""

    slot: int
    incarnation: int
    status: ExitStatus


class WorkerPoked(NamedTuple):
    """A worker has become full, or changed its state, and wants to be looked at."""

    slot: int
    incarnation: int


class WorkerBootFailed(NamedTuple):
    """Without preload: the application could not be imported in this worker."""

    slot: int
    incarnation: int
    message: str
    exit_status: int | None


class SuccessorEnded(NamedTuple):
    """The server that was started to replace this one is gone."""

    status: ExitStatus | None


class SourceChanged(NamedTuple):
    """The application's source has changed; what: which files, in words."""

    what: str


Event = (
    SignalCame
    | TemplateReady
    | TemplateFailed
    | TemplateEnded
    | WorkerForked
    | ForkFailed
    | WorkerEnded
    | WorkerReaped
    | WorkerPoked
    | WorkerBootFailed
    | SuccessorEnded
    | SourceChanged
)
