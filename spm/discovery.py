"""Where a server's control socket is, and how somebody else finds it.

The directory is $XDG_RUNTIME_DIR/smart-http or, without it, <tempdir>/smart-http-<uid>;
the file is <manager pid>.sock. The directory is ours alone (0700): whoever may write
there could put a socket of his own in the server's place.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .errors import ControlError
from .pid_file import is_alive

_SUFFIX: Final = ".sock"


def default_path() -> Path:
    """Return where this process's control socket belongs, in a directory that is ours.

    Raises: ControlError if the directory is somebody else's; OSError.
    """
    directory = _directories(os.getuid())[0]
    directory.mkdir(mode=0o700, exist_ok=True)
    # lstat: somebody may have been faster and put a symbolic link there.
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ControlError(f"{directory} is not a directory of ours")
    if stat.S_IMODE(status.st_mode) != 0o700:
        directory.chmod(0o700)
    return directory / f"{os.getpid()}{_SUFFIX}"


def _directories(uid: int) -> list[Path]:
    """Return the directories where servers of this user may have their sockets."""
    fallback = Path(tempfile.gettempdir()) / f"smart-http-{uid}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if uid != os.getuid():
        return [Path(f"/run/user/{uid}/smart-http"), fallback]
    if runtime and Path(runtime).is_dir():
        return [Path(runtime) / "smart-http", fallback]
    return [fallback]


def remove_leftovers() -> None:
    """Remove sockets in which nobody listens (their manager was killed)."""
    for path in _sockets(os.getuid()):
        # A manager that lives and does not listen is just between bind and listen.
        if not is_listening(path) and not is_alive(int(path.stem)):
            path.unlink(missing_ok=True)


def running(uid: int) -> list[Path]:
    """Return the control sockets of the user's servers that answer."""
    return [path for path in _sockets(uid) if is_listening(path)]


def of_pid(pid: int) -> Path | None:
    """Return the control socket of the manager with this pid.

    None if it has none in the usual places. Another user's is found too; whether we may
    connect is the file system's to say.
    """
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    for directory in _directories(uid):
        path = directory / f"{pid}{_SUFFIX}"
        if path.exists():
            return path
    return None


def is_listening(path: Path) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # full, or not ours to enter: not a leftover of ours either
    return True


def _sockets(uid: int) -> Iterator[Path]:
    for directory in _directories(uid):
        try:
            entries = sorted(directory.glob(f"*{_SUFFIX}"))
        except OSError:
            continue
        yield from (path for path in entries if path.stem.isdigit())
