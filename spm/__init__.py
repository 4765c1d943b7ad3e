"""Smart Process Manager: how many workers, and are they well?"""

from __future__ import annotations

from .control import ask, find
from .errors import BootFailed, ControlError, SettingsError, SPMError, WorkerBootError
from .lifeline import Lifeline
from .manager import SPM
from .observation import Actions, Observation
from .policy import Policy, decide
from .readout import Readout, render
from .scoreboard import Scoreboard
from .settings import SPMS
from .siblings import Inboxes, Siblings
from .slot import Slot

__all__ = [
    "SPM",
    "SPMS",
    "Actions",
    "BootFailed",
    "ControlError",
    "Inboxes",
    "Lifeline",
    "Observation",
    "Policy",
    "Readout",
    "SPMError",
    "Scoreboard",
    "SettingsError",
    "Siblings",
    "Slot",
    "WorkerBootError",
    "ask",
    "decide",
    "find",
    "render",
]
