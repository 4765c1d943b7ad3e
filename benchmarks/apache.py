"""Apache's prefork processes with mod_wsgi: where C and Python have been together longest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.apps import FILE_VARIABLE
from benchmarks.scenarios import Scenario
from benchmarks.server import ROOT, Server

_PATHS: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/local/apache2/bin")  # not on every PATH
_MODULE_DIRECTORIES: Final = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/local/apache2/modules",
)
_CONFIGURATION: Final = """\
ServerRoot {directory}
DefaultRuntimeDir {directory}
PidFile {directory}/pid
ErrorLog /dev/stderr
ServerName localhost
Listen 127.0.0.1:{port}
{modules}
{user}
StartServers {processes}
MinSpareServers 1
MaxSpareServers {processes}
ServerLimit {processes}
MaxRequestWorkers {processes}
WSGISocketPrefix {directory}/wsgi
WSGIDaemonProcess served processes=1 threads={threads} python-path={python_path}
WSGIProcessGroup served
WSGIApplicationGroup %{{GLOBAL}}
WSGIRestrictEmbedded On
WSGIScriptAlias / {directory}/served.wsgi
"""
_APPLICATION: Final = """\
import os
os.environ[{variable!r}] = {file!r}
from {module} import {name} as application
"""


@dataclass(frozen=True, slots=True)
class Apache(Server):
    """Apache httpd: its prefork processes pass requests on to one process that runs Python.

    A prefork process belongs to a connection for as long as that is open, so there are as many
    as there are connections: with fewer some would wait until others are closed.
    """

    def argv(self, port: int, scenario: Scenario, directory: Path | None = None) -> list[str]:
        """Return the command; the configuration is written to `directory`."""
        assert directory is not None
        directory.chmod(0o755)  # its processes run as another user
        module, _, name = scenario.app.partition(":")
        application = _APPLICATION.format(
            variable=FILE_VARIABLE, file=os.environ.get(FILE_VARIABLE, ""), module=module, name=name
        )
        (directory / "served.wsgi").write_text(application, encoding="utf-8")
        configuration = directory / "apache.conf"
        configuration.write_text(_configuration(port, scenario, directory), encoding="utf-8")
        return [_program() or "apache2", "-DFOREGROUND", "-f", str(configuration)]

    def missing(self) -> str:
        """Return why Apache cannot be measured here; empty if it can."""
        if not _program():
            return "apache2 is not installed"
        module = _module("mod_wsgi.so")
        if module is None:
            return "Apache's mod_wsgi is not installed"
        if _module("mod_mpm_prefork.so") is None:
            return "Apache's mod_mpm_prefork is not there as a module"
        version = python_of(module.read_bytes())
        if version != f"{sys.version_info.major}.{sys.version_info.minor}":
            return f"mod_wsgi is for Python {version}, this is {sys.version.split()[0]}"
        return ""

    def version(self) -> str:
        """Return Apache's version."""
        said = subprocess.run([_program(), "-v"], capture_output=True, text=True, check=False)
        found = re.search(r"Apache/(\S+)", said.stdout)
        return found[1] if found else "unknown"


def python_of(module: bytes) -> str:
    """Return the version of Python that a compiled module is linked to; empty if unknown."""
    found = re.search(rb"libpython(3\.\d+)", module)
    return found[1].decode() if found else ""


APACHE: Final = Apache(
    "apache",
    "apache2",
    "apache2",
    lambda port, app, threads: (),
    cannot={"crowd": "a process for each connection"},
)


def _configuration(port: int, scenario: Scenario, directory: Path) -> str:
    modules = [
        f"LoadModule {name}_module {path}"
        for name in ("mpm_prefork", "authz_core", "wsgi")
        if (path := _module(f"mod_{name}.so"))
    ]
    return _CONFIGURATION.format(
        directory=directory,
        port=port,
        modules="\n".join(modules),
        user="User nobody\nGroup nogroup" if os.getuid() == 0 else "",
        processes=scenario.connections + 2,  # the probe's, and one to spare
        threads=scenario.threads,
        python_path=f"{ROOT}:{sysconfig.get_path('purelib')}",
    )


def _program() -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_PATHS])
    return shutil.which("apache2", path=path) or shutil.which("httpd", path=path) or ""


def _module(name: str) -> Path | None:
    found = (Path(directory, name) for directory in _MODULE_DIRECTORIES)
    return next((path for path in found if path.exists()), None)
