"""What the system can tell the manager, as values.

The manager lives on these alone, so that a test can play the system. Templates are known
by a number and workers by their incarnation: both are never used twice, so news that
arrive late cannot be taken for news of a successor.
"""

from __future__ import annotations

from dataclasses import dataclass

from .exit_status import ExitStatus


@dataclass(frozen=True, slots=True)
class SignalCame:
    """Somebody outside sent a signal to the manager."""

    number: int


@dataclass(frozen=True, slots=True)
class TemplateReady:
    """The template has imported the application and can fork workers."""

    template: int


@dataclass(frozen=True, slots=True)
class TemplateFailed:
    """The application could not be imported; the template is about to end."""

    template: int
    message: str
    exit_status: int | None


@dataclass(frozen=True, slots=True)
class TemplateEnded:
    """The template's process is gone."""

    template: int
    status: ExitStatus | None


@dataclass(frozen=True, slots=True)
class WorkerForked:
    """The template has forked a worker; its pidfd is being watched."""

    slot: int
    incarnation: int
    pid: int


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """The template could not fork (no memory, too many processes)."""

    slot: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """The worker's process is gone, or was never there: its slot is nobody's."""

    slot: int
    incarnation: int
    status: ExitStatus | None = None


@dataclass(frozen=True, slots=True)
class WorkerReaped:
    """The template has collected the exit status of a worker, alive in nobody's eyes."""

    slot: int
    incarnation: int
    status: ExitStatus


@dataclass(frozen=True, slots=True)
class WorkerPoked:
    """A worker has become full, or changed its state, and wants to be looked at."""

    slot: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class WorkerBootFailed:
    """Without preload: the application could not be imported in this worker."""

    slot: int
    incarnation: int
    message: str
    exit_status: int | None


@dataclass(frozen=True, slots=True)
class SuccessorEnded:
    """The server that was started to replace this one is gone."""

    status: ExitStatus | None


@dataclass(frozen=True, slots=True)
class SourceChanged:
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
