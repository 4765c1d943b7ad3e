"""Watching the application's source for `--reload`: what counts as a change, and which did.

Runs in a process of its own that never imports the application. The watching itself is
`watchfiles` (inotify), an optional package.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from importlib.machinery import PathFinder
from typing import Final, NamedTuple

from .settings import Options

# Whose source changes without being the application's. Names with a dot in front (.git,
# .venv, .tox, an editor's own files) are left out as well.
_IGNORED: Final = frozenset({"__pycache__", "node_modules", "results", "site-packages"})
_INSTALLED: Final = ("site-packages", "dist-packages")
# Files that are saved together are one change: quiet for so long, but waited for no longer.
_QUIET_MS: Final = 100
_GATHER_MS: Final = 1600
_NAMED: Final = 3  # more than that are counted

Tell = Callable[[str], None]


def watcher(options: Options) -> Callable[[Tell], None] | None:
    """Return what watches the sources for ever and tells of each change; None without --reload."""
    if not options.reload:
        return None
    modules = [options.target.module]
    modules += [hook.module for hook in (options.after_fork, options.before_exit) if hook]
    return functools.partial(
        watch, options.directory, tuple(modules), tuple(options.reload_includes)
    )


def watch(directory: str, modules: Sequence[str], includes: Sequence[str], tell: Tell) -> None:
    """Watch for ever; call `tell` with the names of what has changed, in words.

    directory: the application's. modules: others to be watched where they are, if elsewhere.
    includes: patterns of files besides *.py.
    """
    from watchfiles import watch as watch_files  # optional, and only needed here

    roots = (directory, *directories_elsewhere(directory, modules))
    sources = Sources(roots, tuple(includes))
    for changes in watch_files(
        *roots,
        watch_filter=lambda _, path: sources.counts(path),
        step=_QUIET_MS,
        debounce=_GATHER_MS,
        ignore_permission_denied=True,
    ):
        tell(sources.in_words(path for _, path in changes))


class Sources(NamedTuple):
    """Which files count.

    roots: directories; names are told relative to the first that holds them.
    includes: patterns of files besides *.py, for the name or for the path below the root.
    """

    roots: tuple[str, ...]
    includes: tuple[str, ...] = ()

    def counts(self, path: str) -> bool:
        """Whether a change of this file is a change of the application."""
        relative = self._relative(path)
        *directories, name = relative.split(os.sep)
        if name.startswith(".") or any(d.startswith(".") or d in _IGNORED for d in directories):
            return False
        if name.endswith(".py"):
            return True
        return any(fnmatch(name, glob) or fnmatch(relative, glob) for glob in self.includes)

    def in_words(self, paths: Iterable[str]) -> str:
        """Return the names of some files: `app.py, shop/db.py, shop/web.py and 2 more`."""
        names = sorted({self._relative(path) for path in paths})
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more

    def _relative(self, path: str) -> str:
        for root in self.roots:
            if path.startswith(root.rstrip(os.sep) + os.sep):
                return os.path.relpath(path, root)
        return os.path.basename(path)


def directories_elsewhere(directory: str, modules: Iterable[str]) -> list[str]:
    """Return where modules are that are not below the directory; installed ones left out.

    Found as `import` would find them, yet without importing anything.
    """
    found: list[str] = []
    for module in modules:
        spec = PathFinder.find_spec(module.partition(".")[0], [directory, *sys.path])
        if spec is None:
            continue
        places = list(spec.submodule_search_locations or ())
        if not places and spec.has_location and spec.origin:
            places = [os.path.dirname(spec.origin)]
        found += [os.path.abspath(place) for place in places]
    base = directory.rstrip(os.sep) + os.sep
    return [
        place
        for place in dict.fromkeys(found)
        if not f"{place}{os.sep}".startswith(base)
        and not any(part in _INSTALLED for part in place.split(os.sep))
    ]
