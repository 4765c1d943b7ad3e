"""AppLoader: import the module, find the callable, see that it can be a WSGI application.

    load:  enter directory -> import module -> follow path -> (call factory) -> application
               |                  |                |               |               |
           LoadError          LoadError        LoadError       LoadError       LoadError

    load_hook: the same, and what the path leads to is a function without arguments

Whatever goes wrong is one LoadError, whose text is all that the user sees. What is the
application's own fault comes with the application's own traceback.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Final, cast

from . import shadows
from .callables import callables_in, problem_with, problem_with_hook, required_arguments
from .errors import AppRaised, LoadError
from .target import Target
from .tracebacks import application_traceback, happened_inside, is_plain_refusal

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_FACTORY_NAMES: Final = ("create_app", "make_app", "build_app", "get_app", "create_application")


class AppLoader:
    """Loads one application.

    target: which object of which module.
    directory: where it is; becomes the current directory and the first of `sys.path`.
    option: the option that names a hook; empty for the application.
    """

    def __init__(self, target: Target, directory: str, option: str = "") -> None:
        self._target = target
        self._directory = os.path.abspath(directory)
        self._label = f"{option} {target}".strip()

    def load(self) -> WSGIApplication:
        """Return the WSGI application (PEP 3333).

        Raises: LoadError for everything but KeyboardInterrupt.
        """
        self._enter()
        found = self._follow(self._import())
        if self._target.is_factory:
            found = self._make(found)
        self._check(found)
        return cast("WSGIApplication", found)

    def load_hook(self) -> Callable[[], object]:
        """Return a function that can be called without arguments.

        Raises: LoadError for everything but KeyboardInterrupt.
        """
        self._enter()
        found = self._follow(self._import())
        problem = problem_with_hook(found)
        if problem or not callable(found):
            raise self._error(f"{problem}")
        return found

    def _enter(self) -> None:
        try:
            os.chdir(self._directory)
        except OSError as error:
            raise self._error(f"cannot go to {self._directory}: {error.strerror}") from None
        sys.path[:] = [p for p in sys.path if p not in ("", self._directory)]
        sys.path.insert(0, self._directory)
        # A source file written a moment ago (a reload right after a deployment) may be missing
        # from the import system's memory of the directory.
        importlib.invalidate_caches()
        shadows.make_way(self._directory)

    def _import(self) -> ModuleType:
        name = self._target.module
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if _is_or_holds(error.name, name) and not happened_inside(error):
                raise self._error(self._no_module(error.name or name)) from None
            what = f"it imports {error.name}, which {sys.executable} does not find"
            raise self._raised(what, error) from None
        except SyntaxError as error:
            raise self._raised("Python cannot read it", error) from None
        except SystemExit as error:
            raise self._raised(
                f"it ended the program while it was imported (status {error.code});"
                " put what starts a server under `if __name__ == '__main__':`",
                error,
            ) from None
        except Exception as error:  # noqa: BLE001 - the edge to foreign code
            raise self._raised(f"importing it raised {type(error).__name__}", error) from None

    def _follow(self, module: ModuleType) -> object:
        found: object = module
        seen = self._target.module
        for name in self._target.path:
            try:
                found = getattr(found, name)
            except AttributeError as error:
                if not is_plain_refusal(error):
                    raise self._raised(f"looking up {name} raised AttributeError", error) from None
                raise self._error(self._no_attribute(found, seen, name)) from None
            except Exception as error:  # noqa: BLE001 - a property or a module's __getattr__
                what = f"looking up {name} raised {type(error).__name__}"
                raise self._raised(what, error) from None
            seen = f"{seen}.{name}" if ":" in seen else f"{seen}:{name}"
        return found

    def _make(self, factory: object) -> object:
        name = str(self._target).removesuffix("()")
        if not callable(factory):
            raise self._error(f"{name} is {_a(factory)}, not a factory: serve {name} itself?")
        wanted = required_arguments(factory)
        if wanted:
            raise self._error(
                f"the factory wants arguments ({', '.join(wanted)}), but is called without any:"
                " give them defaults, or wrap it in a function that needs none"
            )
        try:
            made: object = factory()
        except SystemExit as error:
            raise self._raised(
                f"the factory ended the program (status {error.code})", error
            ) from None
        except Exception as error:  # noqa: BLE001 - the edge to foreign code
            raise self._raised(f"the factory raised {type(error).__name__}", error) from None
        if not callable(made):
            _close_coroutine(made)
            raise self._error(
                f"the factory returned {_a(made)}, not a WSGI application"
                + (" (is a `return` missing?)" if made is None else "")
            )
        return made

    def _check(self, found: object) -> None:
        problem = problem_with(found)
        if not problem:
            return
        if isinstance(found, ModuleType):
            inner = next(iter(callables_in(found)), "app")
            problem = f"it is a module, not a callable: did you mean {found.__name__}:{inner}?"
        if self._target.is_factory:
            problem = f"what the factory returned will not do: {problem}"
        raise self._error(problem.format(target=self._target))

    def _no_module(self, missing: str) -> str:
        """Say that the target's own module, or a package it is in, is not there."""
        name, where = self._target.module, self._directory
        parent, _, last = missing.rpartition(".")
        if parent:
            package = sys.modules[parent]  # imported on the way to the one that is missing
            if not hasattr(package, "__path__"):
                return f"{parent} is a module, not a package: there is no {missing} in it"
            where = next(iter(package.__path__), where)
        near = difflib.get_close_matches(last, shadows.modules_of(where), n=1)
        if near:
            right = f"{parent}.{near[0]}" if parent else near[0]
            meant = str(self._target).replace(missing, right, 1)
            return f"there is no module {missing} in {where}: did you mean {meant}?"
        return f"there is no module {missing} in {where}{self._elsewhere(name)}"

    def _elsewhere(self, name: str) -> str:
        """Say in which directory below the module is, if it is in one."""
        for entry in sorted(os.listdir(self._directory)):
            below = os.path.join(self._directory, entry)
            if os.path.isdir(below) and shadows.file_in(below, name):
                return f", but in {entry}/: add --chdir {entry}"
        return ": start the server where the application is, or add --chdir DIR"

    def _no_attribute(self, holder: object, seen: str, name: str) -> str:
        if isinstance(holder, ModuleType):
            meant = shadows.shadowed(holder, self._directory)
            if meant:
                return (
                    f"another module {holder.__name__} was imported before it"
                    f" ({shadows.place(holder)}): rename {meant}"
                )
        names = callables_in(holder)
        near = difflib.get_close_matches(name, names, n=3)
        shown = seen + ("." if ":" in seen else ":")
        what = f"{seen} has no {name!r}"
        if near:
            return f"{what}: did you mean {' or '.join(shown + n for n in near)}?"
        factories = [n for n in _FACTORY_NAMES if n in names]
        if factories and self._label == str(self._target):
            return f"{what}: did you mean '{shown}{factories[0]}()'?"
        if names:
            return f"{what}; it has {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        return f"{what}, and nothing else that could be called"

    def _error(self, problem: str) -> LoadError:
        return LoadError(f"cannot load {self._label}: {problem}")

    def _raised(self, problem: str, error: BaseException) -> LoadError:
        return AppRaised(f"cannot load {self._label}: {problem}\n{application_traceback(error)}")


def _is_or_holds(missing: str | None, module: str) -> bool:
    return missing is not None and (module == missing or module.startswith(f"{missing}."))


def _a(thing: object) -> str:
    if thing is None:
        return "None"
    name = type(thing).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _close_coroutine(made: object) -> None:
    # A coroutine that nobody awaits would say so on standard error, behind our one message.
    close = getattr(made, "close", None)
    if type(made).__name__ == "coroutine" and callable(close):
        close()
