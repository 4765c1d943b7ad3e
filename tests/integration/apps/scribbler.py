"""An application that fills the memory which its server's processes share with rubbish.

/scribble?row|rows|header|all     begin, in a thread that does not stop
"""

from __future__ import annotations

import gc
import json
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from spm.scoreboard import H_SLOTS, HEADER_WORDS, SLOT_WORDS, Scoreboard
from spm.slot import Slot

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

ALL_ONES = (1 << 64) - 1
BURST = 200  # words at once
chance = random.Random(int(os.environ.get("SEED", "1")))


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Say who answers; begin to scribble if that is what the path says."""
    if environ["PATH_INFO"] == "/scribble":
        view, places = found(environ["QUERY_STRING"])
        threading.Thread(target=scribble, args=(view, places), daemon=True).start()
    content = json.dumps({"pid": os.getpid()}).encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]


def found(scope: str) -> tuple[memoryview, Sequence[int]]:
    """Return the shared memory and which of its words are meant."""
    (slot,) = [thing for thing in gc.get_objects() if isinstance(thing, Slot)]
    whole: memoryview = slot._header  # there is no other way
    rows = [Scoreboard.base(number) for number in range(whole[H_SLOTS])]
    own = rows.pop(slot.index)
    return whole, {
        "row": places_of([own]),
        "rows": places_of(rows),
        "header": range(HEADER_WORDS),
        "all": [*range(HEADER_WORDS), *places_of([own, *rows])],
    }[scope]


def places_of(rows: Iterable[int]) -> list[int]:
    """Return where the words of some rows are."""
    return [row + word for row in rows for word in range(SLOT_WORDS)]


def rubbish() -> Iterator[int]:
    """Yield words: some are impossible, and some look as if they meant something."""
    while True:
        yield chance.randrange(5)
        yield chance.randrange(1000)
        yield chance.randrange(1 << 64)
        yield time.monotonic_ns() - chance.randrange(1 << 34)
        yield ALL_ONES


def scribble(view: memoryview, places: Sequence[int]) -> None:
    """Write rubbish for ever."""
    words = rubbish()
    while True:
        for place in chance.sample(places, min(BURST, len(places))):
            view[place] = next(words)
        time.sleep(0.001)
