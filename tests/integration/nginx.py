"""nginx as an ordinary process: its own directory, sockets that the test has made, no service."""

from __future__ import annotations

import http.client
import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.integration.server_process import PATIENCE_S, eventually

_CONFIGURATION: Final = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    proxy_max_temp_file_size 0;  # a client that reads slowly is the server's affair
    large_client_header_buffers 4 32k;
    keepalive_requests 100000;
{upstreams}
{fronts}
}}
"""
_UPSTREAM: Final = """
    upstream {name} {{
        server {address} max_fails=0;
        keepalive 8;
        keepalive_requests 100000;
    }}
"""
_FRONT: Final = """
    server {{
        listen {host}:{port};
        listen unix:{path};
        location / {{
            proxy_pass http://{upstream};
            {settings}
        }}
    }}
"""
# nginx forgets what outer blocks say of such headers where an inner one says anything of one.
_SAID: Final = "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;"
_KEPT: Final = f'{_SAID} proxy_http_version 1.1; proxy_set_header Connection "";'
# How nginx can be told to pass things on.
MODES: Final = {
    "kept": _KEPT,
    "unbuffered": f"{_KEPT} proxy_buffering off; proxy_request_buffering off;",
    # HTTP/1.0 and a connection for each request, as it is if nothing is said.
    "default": _SAID,
}


@dataclass(frozen=True)
class Front:
    """An address of nginx, behind which it passes requests on in one of the modes."""

    upstream: str  # "tcp" or "unix"
    mode: str
    address: tuple[str, int]
    path: Path  # a socket file, over which the same is to be had

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection that is opened by its first request; the caller closes it."""
        return http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)

    def connect(self) -> socket.socket:
        """Return a connected socket; the caller closes it."""
        return socket.create_connection(self.address, PATIENCE_S)

    def connect_by_path(self) -> socket.socket:
        """Return a socket connected to the socket file, whose buffers never grow."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(PATIENCE_S)
        connected.connect(str(self.path))
        return connected


class Nginx:
    """nginx in front of a server, with an address for every upstream and mode.

    program: its path. directory: for all its files; made if it is not there.
    upstreams: a name and an address, as nginx's directive `server` has it.
    """

    def __init__(self, program: str, directory: Path, upstreams: dict[str, str]) -> None:
        self.fronts: dict[tuple[str, str], Front] = {}
        self._directory = directory
        self._errors_seen = 0
        directory.mkdir(parents=True, exist_ok=True)
        # Ports that nobody else can have meanwhile: nginx takes over sockets that listen
        # already, as it does from an old process of its own when it is upgraded.
        listeners = {
            (name, mode): socket.create_server(("127.0.0.1", 0))
            for name in upstreams
            for mode in MODES
        }
        for key, listener in listeners.items():
            path = directory / "-".join((*key, "front.sock"))
            self.fronts[key] = Front(*key, listener.getsockname(), path)
        fds = [listener.fileno() for listener in listeners.values()]
        configuration = directory / "nginx.conf"
        configuration.write_text(self._configuration(upstreams))
        with (directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [program, "-p", str(directory), "-c", str(configuration)],
                env={**os.environ, "NGINX": "".join(f"{fd};" for fd in fds)},
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        for listener in listeners.values():
            listener.close()

    def _configuration(self, upstreams: dict[str, str]) -> str:
        fronts = [
            _FRONT.format(
                host=front.address[0],
                port=front.address[1],
                path=front.path,
                upstream=front.upstream,
                settings=MODES[front.mode],
            )
            for front in self.fronts.values()
        ]
        # A master that is root gives its workers to somebody who may not enter the directory.
        user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        return _CONFIGURATION.format(
            user=user,
            directory=self._directory,
            upstreams="".join(_UPSTREAM.format(name=n, address=a) for n, a in upstreams.items()),
            fronts="".join(fronts),
        )

    def errors(self, without: Iterable[str] = ()) -> list[str]:
        """Return what it has complained of since it was last asked.

        without: words of complaints that are expected.
        """
        log = self._directory / "error.log"
        lines = log.read_text().splitlines()
        new, self._errors_seen = lines[self._errors_seen :], len(lines)
        return [line for line in new if not any(words in line for words in without)]

    def sockets(self) -> set[str]:
        """Return all sockets of its worker, each by a name that no other one will have."""
        master = self._process.pid
        worker = Path(f"/proc/{master}/task/{master}/children").read_text().split()[0]
        links = [os.readlink(fd) for fd in Path(f"/proc/{worker}/fd").iterdir()]
        return {link for link in links if link.startswith("socket:")}

    def report(self) -> str:
        """Return what a failed test wants to know of it."""
        files = (self._directory / name for name in ("output", "error.log"))
        return "\n".join(path.read_text() for path in files if path.exists())

    def wait_until_ready(self) -> None:
        """Wait until it has read its configuration; its sockets listen already."""

        def look() -> bool:
            assert self._process.poll() is None, self.report()
            return (self._directory / "nginx.pid").exists()

        eventually(look, hint=self.report)

    def end(self) -> None:
        """Stop it at once and wait for its end."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise AssertionError(f"nginx does not end: {self.report()}") from None
