"""One server under test: what starts it, what it cannot do, which version it is."""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.scenarios import Scenario

ROOT: Final = Path(__file__).resolve().parent.parent

# port, application as MODULE:CALLABLE, threads -> arguments for the Python interpreter
Command = Callable[[int, str, int], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Server:
    """One server under test.

    options: what a scenario needs (`Scenario.needs`) -> further arguments, in front of the
        application if that is the last one.
    cannot: the same -> why the server has no turn in such a scenario.
    """

    name: str
    needs: str  # the module without which it cannot run
    distribution: str  # the package whose version is reported; "" for files of this project
    command: Command
    has_threads: bool = True
    has_app: bool = True
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cannot: Mapping[str, str] = field(default_factory=dict)
    root: Path = ROOT  # where setup.cfg with the version is, for files of this project

    def argv(self, port: int, scenario: Scenario, directory: Path | None = None) -> list[str]:
        """Return the command that serves `scenario` at 127.0.0.1:`port`.

        directory: an empty one for files that the server needs while it runs.
        """
        words = [sys.executable, *self.command(port, scenario.app, scenario.threads)]
        end = len(words) - (words[-1] == scenario.app)
        return [*words[:end], *self.further(scenario), *words[end:]]

    def further(self, scenario: Scenario) -> list[str]:
        """Return the options that the server needs for what it would refuse by default."""
        return [word for need in scenario.needs for word in self.options.get(need, ())]

    def missing(self) -> str:
        """Return why this server cannot be started at all; empty if it can."""
        if importlib.util.find_spec(self.needs) is not None:
            return ""
        if not self.distribution:
            return f"{self.needs}.py is not there"
        return f"the package {self.distribution} is not installed"

    def unfit(self, scenario: Scenario) -> str:
        """Return why `scenario` says nothing about this server; empty if it does."""
        if not self.has_threads and scenario.blocks:
            return "one thread only"
        if not self.has_app and not scenario.app.endswith(":hello"):
            return "runs no application"
        return next((self.cannot[need] for need in scenario.needs if need in self.cannot), "")

    def version(self) -> str:
        """Return the version that is measured."""
        if self.distribution:
            return importlib.metadata.version(self.distribution)
        metadata = configparser.ConfigParser(interpolation=None)
        metadata.read(self.root / "setup.cfg", encoding="utf-8")
        return metadata.get("metadata", "version", fallback="unknown")
