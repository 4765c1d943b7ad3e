"""Smart Process Manager: how many workers, and are they well?"""

from __future__ import annotations

from .control import ask, find, order_upgrade
from .errors import BootFailed, ControlError, SettingsError, SPMError, WorkerBootError
from .lifeline import Lifeline
from .manager import SPM
from .observation import Actions, Observation
from .policy import Policy, decide
from .readout import Readout, render
from .real_system import real_system
from .relaunch import Command, Inheritance, Renewal, take_inheritance
from .scoreboard import Scoreboard
from .settings import SPMS
from .siblings import Inboxes, Siblings
from .slot import Slot

__all__ = [
    "SPM",
    "SPMS",
    "Actions",
    "BootFailed",
    "Command",
    "ControlError",
    "Inboxes",
    "Inheritance",
    "Lifeline",
    "Observation",
    "Policy",
    "Readout",
    "Renewal",
    "SPMError",
    "Scoreboard",
    "SettingsError",
    "Siblings",
    "Slot",
    "WorkerBootError",
    "ask",
    "decide",
    "find",
    "order_upgrade",
    "real_system",
    "render",
    "take_inheritance",
]
