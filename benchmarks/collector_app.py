"""The application under test in `collector`: a heap of its own, and garbage in cycles.

COLLECTOR_BENCH=default sets thresholds that are CPython's but for one: the server then leaves
the collector alone, as it does for any application with settings of its own.
"""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from typing import Any, Final

from flask import Flask, Response, g, jsonify

LIVE: Final = 200_000  # objects that stay, of each kind: imported, and made by the first request
KEPT: Final = 2_000  # answers that a cache remembers; what leaves it is garbage in cycles
ROWS: Final = 50  # of an answer
LARGE_BYTES: Final = 1 << 20

app = Flask(__name__)
if os.environ.get("COLLECTOR_BENCH") == "default":
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, old + 1)


class Node:
    """Something that knows itself, and so is garbage only to the collector."""

    def __init__(self, content: object) -> None:
        self.itself = self
        self.content = content


def heap() -> list[dict[str, list[int]]]:
    """Return `LIVE` objects."""
    return [{"rows": [number]} for number in range(LIVE // 2)]


imported: Final = heap()
made: list[list[dict[str, list[int]]]] = []
cache: deque[Node] = deque(maxlen=KEPT)
pauses_ns: list[int] = []  # of full collections
inside: Final = {"requests": 0, "since_ns": 0, "met": 0}


def watch(phase: str, info: dict[str, Any]) -> None:
    """Note full collections, and whether they hit a request."""
    if info["generation"] == 2:
        if phase == "start":
            inside["since_ns"] = time.perf_counter_ns()
        else:
            pauses_ns.append(time.perf_counter_ns() - inside["since_ns"])
            inside["met"] += inside["requests"] > 0


gc.callbacks.append(watch)


@app.before_request
def enter() -> None:
    """A request begins."""
    inside["requests"] += 1
    g.entered = True


@app.teardown_request
def leave(error: BaseException | None) -> None:
    """A request ends."""
    inside["requests"] -= 1


@app.get("/")
def answer() -> Response:
    """Leave some garbage at once, and some when the cache forgets it."""
    if not made:
        made.append(heap())
    Node([{"row": number} for number in range(ROWS)])
    cache.append(Node([{"row": number} for number in range(ROWS)]))
    return jsonify(message="Hello, World!")


@app.get("/large")
def large() -> Response:
    """Leave a large buffer in a cycle, and nothing else."""
    Node(bytearray(LARGE_BYTES))
    return jsonify(message="Hello, World!")


@app.get("/collections")
def collections() -> Response:
    """Say what full collections there were."""
    return jsonify(pauses_ms=[pause / 1e6 for pause in pauses_ns], met=inside["met"])
