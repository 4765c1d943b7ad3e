"""Hooks: what the application wants done in each worker, after its fork and before its exit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .app_loader import AppLoader
from .errors import HookError
from .settings import Options
from .target import Target
from .tracebacks import application_traceback

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_log = logging.getLogger("smart_http.loader")


class Hook(NamedTuple):
    """One callable, and the name under which a fault of it is told."""

    name: str
    function: Callable[[], object]

    def __call__(self) -> None:
        """Call it. Raises: HookError, whatever it raised."""
        try:
            self.function()
        except BaseException as error:  # noqa: BLE001 - the edge to foreign code; sys.exit() too
            what = f"{self.name} raised {type(error).__name__}"
            raise HookError(f"{what}\n{application_traceback(error)}") from None


class Hooks(NamedTuple):
    """The hooks of one worker; None: there is none."""

    after_fork: Hook | None = None
    before_exit: Hook | None = None

    def begin(self) -> None:
        """Call after-fork. Raises: HookError; the worker cannot start then."""
        if self.after_fork is not None:
            self.after_fork()

    def end(self) -> None:
        """Call before-exit; its failure is logged and holds nobody up."""
        if self.before_exit is not None:
            try:
                self.before_exit()
            except HookError as error:
                _log.error("%s", error)


def load(options: Options) -> tuple[WSGIApplication, Hooks]:
    """Return the application and its hooks. Raises: LoadError."""
    if options.reload:
        # Python tells compiled files from newer sources by the second and the size: too
        # coarse for somebody who saves a file twice. So none are written.
        sys.dont_write_bytecode = True
    app = AppLoader(options.target, options.directory).load()
    return app, Hooks(
        _hook("--after-fork", options.after_fork, options.directory),
        _hook("--before-exit", options.before_exit, options.directory),
    )


def _hook(option: str, target: Target | None, directory: str) -> Hook | None:
    if target is None:
        return None
    return Hook(f"{option} {target}", AppLoader(target, directory, option).load_hook())
