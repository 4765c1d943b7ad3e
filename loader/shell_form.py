"""`--lode:app->app` typed without quotes: the shell has taken `>app` for a redirection.

What then arrives is `--lode:app-`, with standard output on a file called `app`. That file's
name is the callable's name, so the command can be served all the same.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from .errors import UsageError
from .target import Target, is_dotted_name, parse_target

_DELETED: Final = " (deleted)"  # what /proc says behind the name of a file that is gone


def is_cut_off(text: str) -> bool:
    """Tell whether a target looks like what a shell leaves of `module->callable`."""
    return text.endswith("-") and is_dotted_name(text[:-1])


def recover(text: str, *, stdout_fd: int = 1, stderr_fd: int = 2) -> tuple[Target, str]:
    """Return the target that was meant, and one line that says so.

    From then on standard output is standard error, and the file that the shell made is gone
    if nothing is in it.
    Raises: UsageError with the quoted form if standard output is on no regular file, or the
        file's name cannot be a callable's; nothing has been touched then.
    """
    module = text[:-1]
    opened = os.fstat(stdout_fd)
    if not stat.S_ISREG(opened.st_mode):
        raise UsageError(
            f"--lode:{text}: no callable after '-'; in a shell it has to be quoted:"
            f" '--lode:{module}->app' (or write {module}:app)"
        )
    path = os.readlink(f"/proc/self/fd/{stdout_fd}").removesuffix(_DELETED)
    name = os.path.basename(path)
    # A file called app.py is someone's source, not a callable `py` of `app`.
    if not is_dotted_name(name) or name.endswith(".py"):
        raise UsageError(
            f"--lode:{text}: standard output goes to {path}, whose name cannot be a callable's;"
            f" quote the target: '--lode:{module}->app' (or write {module}:app)"
        )
    target = parse_target(f"{module}:{name}")
    removed = _remove_if_empty(path, opened)
    # Nothing is to be written into that file, nor lost because it is gone.
    os.dup2(stderr_fd, stdout_fd)
    return target, _notice(target, path, removed)


def _remove_if_empty(path: str, opened: os.stat_result) -> bool:
    """Remove the file that the shell made; one that holds anything (`>>`) is left alone."""
    try:
        found = os.stat(path, follow_symlinks=False)
        # Only the very file that is open here: since the shell opened it, the name may have
        # been given to another one.
        if (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino) or found.st_size:
            return False
        os.unlink(path)
    except FileNotFoundError:
        return True  # somebody else has removed it
    except OSError:
        return False  # not ours to remove; the notice says that it stays
    return True


def _notice(target: Target, path: str, removed: bool) -> str:
    name = ".".join(target.path)
    file = f"the empty file it made is removed, {path}" if removed else f"{path} is left as it is"
    return (
        f"the shell took '>{name}' for a redirection; serving {target} ({file})."
        f" Next time quote it: {target.quoted()}"
    )
