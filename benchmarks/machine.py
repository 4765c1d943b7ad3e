"""Where and with what a run was made; numbers without this cannot be compared."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cores import Cores
from benchmarks.load import Generator
from benchmarks.servers import ROOT, Server


def facts(servers: Sequence[Server], generator: Generator, cores: Cores) -> dict[str, object]:
    """Return what belongs beside the numbers, ready for JSON."""
    return {
        **surroundings(cores),
        "generator": f"{generator.name} {generator.version}",
        "versions": {server.name: server.version() for server in servers if server.has_app},
    }


def surroundings(cores: Cores) -> dict[str, object]:
    """Return the facts that do not depend on what is measured."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")),
        "cores": os.cpu_count(),
        "server_core": cores.server,
        "load_core": cores.load,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": commit(),
    }


def cpu_model(cpuinfo: str) -> str:
    """Return the processor's name out of /proc/cpuinfo's text (proc_cpuinfo(5))."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.M)
    return found[1] if found else platform.machine()


def commit() -> str:
    """Return the commit that was measured, marked if files differ from it."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "unknown"
    return said.stdout.strip() or "unknown"
