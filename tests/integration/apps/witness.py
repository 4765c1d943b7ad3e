"""An application that says what it has seen of a request, always in the same words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def testimony(environ: Mapping[str, str], body: bytes) -> bytes:
    """Say what there is in an environ that came from the client, and its content."""
    fields = {
        key: value
        for key, value in environ.items()
        if key.startswith(("HTTP_", "CONTENT_", "REQUEST_"))
        or key in ("RAW_URI", "PATH_INFO", "QUERY_STRING", "SCRIPT_NAME", "SERVER_PROTOCOL")
    }
    return json.dumps([fields, body.decode("latin-1")], sort_keys=True).encode()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer 200 and what was seen; 403 to CONNECT, for a 2xx would be a tunnel."""
    stream = environ["wsgi.input"]
    body = stream.read()
    assert stream.read() == b"", "content behind the end of the content"
    content = testimony(environ, body)
    status = "403 Forbidden" if environ["REQUEST_METHOD"] == "CONNECT" else "200 OK"
    start_response(status, [("Content-Type", "application/json")])
    return [content]
