"""A small demo: one page, and a route for everything a server has to be good at.

    python main.py '--lode:app->app'        # then http://127.0.0.1:8080

`app` is a Flask application, `make()` its factory, `hello` a bare WSGI callable to measure with.
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Final

from flask import Flask, Response, jsonify, request

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_LONGEST_MS: Final = 60_000
_MOST_PIECES: Final = 1_000
_PIECE_BYTES: Final = 64 * 1024


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Say hello with as little as PEP 3333 asks for."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "14")])
    return [b"Hello, World!\n"]


def make() -> Flask:
    """Build the demo application."""
    flask = Flask(__name__)
    flask.add_url_rule("/", view_func=page)
    flask.add_url_rule("/json", view_func=json)
    flask.add_url_rule("/sleep", view_func=sleep)
    flask.add_url_rule("/cpu", view_func=cpu)
    flask.add_url_rule("/stream", view_func=stream)
    flask.add_url_rule("/upload", view_func=upload_form, methods=["GET"])
    flask.add_url_rule("/upload", view_func=upload, methods=["POST", "PUT"])
    flask.add_url_rule("/error", view_func=error)
    flask.add_url_rule("/whoami", view_func=whoami)
    flask.register_error_handler(BadValue, lambda bad: _text(f"{bad}\n", 400))
    return flask


class BadValue(ValueError):
    """A query value that cannot be used; its text is the answer, with status 400."""


def page() -> str:
    """Show the one page, with a link to every route."""
    cards = "".join(
        _CARD.format(href=href, title=title, says=says) for href, title, says in _ROUTES
    )
    return _PAGE.replace("{{cards}}", cards).replace("{{who}}", _who())


def json() -> Response:
    """Answer a small JSON object."""
    return jsonify(message="Hello, World!", server=request.environ.get("SERVER_SOFTWARE", ""))


def sleep() -> Response:
    """Wait as an application waits for its database: the thread is blocked, the core is free."""
    ms = _number("ms", 100, _LONGEST_MS)
    time.sleep(ms / 1000)
    return _text(f"slept {ms} ms\n")


def cpu() -> Response:
    """Compute until this thread has used `ms` milliseconds of processor time."""
    ms = _number("ms", 100, _LONGEST_MS)
    rounds = 0
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        sum(number * number for number in range(500))
        rounds += 1
    return _text(f"computed for {ms} ms, {rounds} rounds\n")


def stream() -> Response:
    """Send `n` lines, one every `ms` milliseconds, each on its way as soon as it is made."""
    pieces = _number("n", 5, _MOST_PIECES)
    ms = _number("ms", 200, _LONGEST_MS)

    def lines() -> Iterator[str]:
        for number in range(1, pieces + 1):
            if number > 1:
                time.sleep(ms / 1000)
            yield f"piece {number} of {pieces}\n"

    return Response(lines(), mimetype="text/plain")


def upload_form() -> str:
    """Offer a form to send a file with."""
    return _PAGE.replace("{{cards}}", _FORM).replace("{{who}}", _who())


def upload() -> Response:
    """Count and hash what is sent: the files of a form, or the body as it comes."""
    if request.mimetype == "multipart/form-data":
        files = [
            {"name": name, "filename": file.filename, **_measure(file.stream)}
            for name, file in request.files.items(multi=True)
        ]
        return jsonify(files=files)
    return jsonify(_measure(request.stream))


def error() -> Response:
    """Fail, to see what the client gets and what the log says."""
    raise RuntimeError("this route always fails")


def whoami() -> Response:
    """Say which process and which thread answered."""
    thread = threading.current_thread()
    return jsonify(
        pid=os.getpid(),
        parent_pid=os.getppid(),
        thread=thread.name,
        thread_id=thread.native_id,
        python=platform.python_version(),
        multithread=bool(request.environ.get("wsgi.multithread")),
        multiprocess=bool(request.environ.get("wsgi.multiprocess")),
    )


def _number(name: str, default: int, most: int) -> int:
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        raise BadValue(f"{name}={text}: give a whole number from 0 to {most}")
    return int(text)


def _text(text: str, status: int = 200) -> Response:
    return Response(text, status, mimetype="text/plain")


def _measure(source: IO[bytes]) -> dict[str, object]:
    digest = hashlib.sha256()
    length = 0
    while piece := source.read(_PIECE_BYTES):
        digest.update(piece)
        length += len(piece)
    return {"bytes": length, "sha256": digest.hexdigest()}


def _who() -> str:
    thread = threading.current_thread().name
    return f"Python {platform.python_version()}, process {os.getpid()}, {thread}"


_ROUTES: Final = (
    ("/json", "/json", "a small JSON object"),
    ("/sleep?ms=200", "/sleep?ms=200", "wait without computing: more threads help"),
    ("/cpu?ms=200", "/cpu?ms=200", "compute without waiting: more processes help"),
    ("/stream", "/stream?n=5&amp;ms=200", "a generator, sent piece by piece"),
    ("/upload", "/upload", "send a file, get its length and SHA-256 back"),
    ("/error", "/error", "an exception: a 500 for you, a traceback in the log"),
    ("/whoami", "/whoami", "which process and which thread answered"),
)

_CARD: Final = '<a class="card" href="{href}"><code>{title}</code><span>{says}</span></a>\n'

_FORM: Final = """<form class="card" method="post" enctype="multipart/form-data">
<code>POST /upload</code><span>or: curl --data-binary @file http://.../upload</span>
<input type="file" name="file" required> <button>Send</button></form>
<a class="card" href="/"><code>/</code><span>back to the routes</span></a>
"""

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Smart HTTP Server</title>
<style>
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1c2330; --soft: #5d687a;
  --line: #dfe3ea; --accent: #0b6bcb; }
@media (prefers-color-scheme: dark) { :root { --back: #12161d; --card: #1a2029; --text: #e6eaf1;
  --soft: #97a3b6; --line: #2a323f; --accent: #6cb4ff; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; padding: 2rem 1rem; }
main { width: 100%; max-width: 46rem; }
h1 { font-size: clamp(1.8rem, 6vw, 2.6rem); letter-spacing: -.02em; line-height: 1.1; margin: 0; }
p { color: var(--soft); margin: .6rem 0 1.6rem; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.card { display: block; background: var(--card); border: 1px solid var(--line); padding: 1rem;
  border-radius: .8rem; color: inherit; text-decoration: none; transition: border-color .15s; }
a.card:hover, a.card:focus-visible { border-color: var(--accent); outline: none; }
code { font: 600 1rem ui-monospace, monospace; color: var(--accent); }
.card span { display: block; color: var(--soft); font-size: .92rem; margin-top: .2rem; }
input, button { font: inherit; margin-top: .8rem; max-width: 100%; }
footer { color: var(--soft); font-size: .85rem; margin-top: 1.6rem; }
</style>
</head>
<body>
<main>
<h1>It works.</h1>
<p>Smart HTTP Server: processes and threads follow the load by themselves.</p>
<div class="cards">
{{cards}}</div>
<footer>Answered by {{who}}.</footer>
</main>
</body>
</html>
"""

app = make()
