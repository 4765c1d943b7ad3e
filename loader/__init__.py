"""From the command line to a callable: options, target, application, logs."""

from __future__ import annotations

from . import logs
from .app_loader import AppLoader
from .bind import Bind, TcpBind, UnixBind
from .cli import SERVED_TARGET, StatusQuery, UpgradeOrder, parse
from .errors import PROGRAM, HookError, LoaderError, LoadError, UsageError
from .hooks import Hooks, load
from .report import check_report, markdown_table
from .resolve import DEFAULT
from .settings import Options
from .standard_streams import hold_standard_descriptors
from .target import Target, parse_target
from .version import VERSION
from .watch import watcher

__all__ = [
    "DEFAULT",
    "PROGRAM",
    "SERVED_TARGET",
    "VERSION",
    "AppLoader",
    "Bind",
    "HookError",
    "Hooks",
    "LoadError",
    "LoaderError",
    "Options",
    "StatusQuery",
    "Target",
    "TcpBind",
    "UnixBind",
    "UpgradeOrder",
    "UsageError",
    "check_report",
    "hold_standard_descriptors",
    "load",
    "logs",
    "markdown_table",
    "parse",
    "parse_target",
    "watcher",
]
