"""From the command line to a callable: options, target, application, logs."""

from __future__ import annotations

from . import logs
from .app_loader import AppLoader
from .bind import Bind, TcpBind, UnixBind
from .cli import StatusQuery, parse
from .errors import PROGRAM, LoaderError, LoadError, UsageError
from .options import Options
from .report import check_report, markdown_table
from .target import Target, parse_target
from .version import VERSION

__all__ = [
    "PROGRAM",
    "VERSION",
    "AppLoader",
    "Bind",
    "LoadError",
    "LoaderError",
    "Options",
    "StatusQuery",
    "Target",
    "TcpBind",
    "UnixBind",
    "UsageError",
    "check_report",
    "logs",
    "markdown_table",
    "parse",
    "parse_target",
]
