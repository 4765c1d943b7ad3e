"""How a server starts itself once more: the same command, in the same place, with its sockets.

The new process gets the listening sockets by the protocol of sd_listen_fds(3), as from
systemd, and behind them its end of the bridge, in SMART_HTTP_BRIDGE.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Final, NamedTuple, NoReturn, Protocol

from . import child
from .bridge import news_packet

BRIDGE_VARIABLE: Final = "SMART_HTTP_BRIDGE"
_FIRST_FD: Final = 3


class Command(NamedTuple):
    """What was typed to start this server, and where.

    program: the interpreter. arguments: from argv[0] on.
    """

    program: str
    arguments: list[str]
    directory: str
    environ: Mapping[str, str]

    @classmethod
    def of_this_process(cls, more: Mapping[str, str]) -> Command:
        """Return how this process was started; before it goes to another directory.

        more: environment variables for the new one besides.
        """
        # argv[0] in full: from it the interpreter finds its virtual environment.
        arguments = [sys.executable, *sys.orig_argv[1:]]
        return cls(sys.executable, arguments, _directory(), {**os.environ, **more})

    def __repr__(self) -> str:
        # Without the environment: there are passwords in it.
        return f"Command({self.arguments!r} in {self.directory!r})"


def _directory() -> str:
    """Return the current directory as the user sees it.

    Behind a symbolic link that is pointed at each new release, getcwd(2) names the release
    that was there at the start; PWD names the link.
    """
    here = os.getcwd()
    seen = os.environ.get("PWD", "")
    return seen if os.path.isabs(seen) and _same(seen, here) else here


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


class Sockets(Protocol):
    """The listening sockets, as far as an upgrade has to do with them."""

    def to_pass_on(self) -> Sequence[tuple[int, str]]:
        """Return descriptors and names, in their order."""

    def own(self) -> None:
        """Take over the socket files that the old server made."""

    def disown(self) -> None:
        """Leave those that we made to the new server."""


class Inheritance(NamedTuple):
    """What a server that replaces another one has got from it.

    bridge: descriptor of its end. predecessor: pid of the old server.
    workers: how many served there.
    """

    bridge: int
    predecessor: int
    workers: int


class Renewal(NamedTuple):
    """What a server must know to be replaced by a new one, or to be that new one.

    parcel_format: what connections look like on their way; between servers that differ in
        it none can be handed over.
    """

    command: Command
    sockets: Sockets
    parcel_format: int = 0
    inheritance: Inheritance | None = None


def take_inheritance(environ: MutableMapping[str, str]) -> Inheritance | None:
    """Return what was announced for this process, once; None: it replaces nobody.

    Removed from the environment, or a server that the application starts would believe it.
    """
    said = environ.pop(BRIDGE_VARIABLE, "").split(":")
    if len(said) != 4 or not all(word.isascii() and word.isdigit() for word in said):
        return None
    pid, bridge, predecessor, workers = map(int, said)
    if pid != os.getpid():
        return None
    os.set_inheritable(bridge, False)
    return Inheritance(bridge, predecessor, workers)


def become(
    command: Command, sockets: Sequence[tuple[int, str]], bridge_fd: int, workers: int
) -> NoReturn:
    """Be the new server: in a process just forked, that has signals held back.

    Never returns; if it cannot start, it says so over the bridge.
    """
    voice = bridge_fd
    try:
        predecessor = os.getppid()
        os.chdir(command.directory)
        after = _FIRST_FD + len(sockets)
        descriptors = [*(fd for fd, _ in sockets), bridge_fd]
        # First out of the way, then to their places: a place may be another one's source.
        # Whatever else lies there was of no use to the new program.
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, after + 1) for fd in descriptors]
        voice = copies[-1]
        for place, copy in enumerate(copies, _FIRST_FD):
            os.dup2(copy, place)
        environ = {
            **command.environ,
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(sockets)),
            "LISTEN_FDNAMES": ":".join(name for _, name in sockets),
            BRIDGE_VARIABLE: f"{os.getpid()}:{after}:{predecessor}:{workers}",
        }
        child.reset_signals()
        os.execve(command.program, command.arguments, environ)
    except BaseException as error:  # noqa: BLE001 - the edge of the process
        why = f"{command.program} could not be started: {error}"
        os.write(voice, news_packet({"news": "failed", "why": why}))
    finally:
        os._exit(127)
