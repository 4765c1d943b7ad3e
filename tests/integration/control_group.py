"""Control groups of the tests' own, where the machine lets us make some (root, mostly)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.integration.server_process import eventually


class ControlGroup:
    """A group below each of these, with limits; to be removed when its processes have ended.

    homes: directories of the groups that we are in. limits: file name -> content; of those
    that exist, in any of the groups. needed: one of these must exist.
    Raises: OSError where there can be none.
    """

    def __init__(
        self, homes: Sequence[Path], limits: Mapping[str, object], needed: Sequence[str]
    ) -> None:
        name = f"smart-http-test-{os.getpid()}"
        self._homes = homes
        self._directories: list[Path] = []
        try:
            for home in homes:
                (home / name).mkdir()
                self._directories.append(home / name)
            if not self._found(needed):
                raise OSError(f"no {' or '.join(needed)} in a group of ours")
            for limit, value in limits.items():
                for path in self._found([limit]):
                    path.write_text(str(value))
        except OSError:
            self.remove()
            raise

    def _found(self, names: Sequence[str]) -> list[Path]:
        paths = [directory / name for directory in self._directories for name in names]
        return [path for path in paths if path.exists()]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the group; what is started meanwhile stays there."""
        try:
            for directory in self._directories:
                (directory / "cgroup.procs").write_text(str(os.getpid()))
            yield
        finally:
            for home in self._homes:
                (home / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove it. Its processes have ended, or are about to."""

        def gone() -> bool:
            for directory in self._directories:
                with contextlib.suppress(OSError):
                    directory.rmdir()
            return not any(directory.exists() for directory in self._directories)

        eventually(gone, hint=lambda: f"cannot remove {self._directories}")
