"""Modules of the application that have the same name as one that is already imported."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Final

# A web application's `main.py` is the commonest of all, and the installed command's own
# module is called `main` too.
_OURS: Final = ("main", "loader", "spm", "httpcore_srv")


def file_in(directory: str, module: str) -> str | None:
    """Return the source file that `module` would have in `directory`, or None."""
    base = os.path.join(directory, *module.split("."))
    for path in (os.path.join(base, "__init__.py"), f"{base}.py"):
        if os.path.isfile(path):
            return path
    return None


def make_way(directory: str) -> None:
    """Forget those of this program's modules that `directory` has its own of.

    The application gets its own then; what runs here goes on with the objects it holds.
    """
    for name in _OURS:
        loaded, theirs = sys.modules.get(name), file_in(directory, name)
        if loaded is not None and theirs is not None and not _is_file(loaded, theirs):
            for each in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
                del sys.modules[each]


def shadowed(module: ModuleType, directory: str) -> str | None:
    """Return the file in `directory` that was meant, if `module` is another of that name."""
    theirs = file_in(directory, module.__name__)
    if theirs is None or _is_file(module, theirs):
        return None
    return theirs


def place(module: ModuleType) -> str:
    """Return where a module comes from, in words."""
    return getattr(module, "__file__", None) or "built into Python"


def modules_of(directory: str) -> list[str]:
    """Return the names of the modules and packages in `directory`."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return []
    names = []
    for entry in entries:
        name, extension = os.path.splitext(entry.name)
        is_package = entry.is_dir() and os.path.isfile(os.path.join(entry.path, "__init__.py"))
        if name.isidentifier() and (is_package or extension in importlib.machinery.SOURCE_SUFFIXES):
            names.append(name)
    return names


def _is_file(module: ModuleType, path: str) -> bool:
    own = getattr(module, "__file__", None)
    return own is not None and os.path.realpath(own) == os.path.realpath(path)
