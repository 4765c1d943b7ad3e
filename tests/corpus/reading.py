"""Run bytes through a parser and write down all that it said, for comparing.

Two runs over the same bytes are equal if their `Transcript`s are: what the pieces
were that the bytes came in must not show anywhere in it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from httpcore_srv.errors import ProtocolError
from httpcore_srv.messages import END_OF_MESSAGE, NEED_DATA, Message, RequestHead
from httpcore_srv.request_parser import HTTPRequest
from httpcore_srv.settings import HTTPLimits


@dataclass
class Seen:
    """One request as an application would see it; `body` grows until `whole`."""

    method: str
    target: str
    path: str
    query: str
    minor: int
    authority: str | None
    keep_alive: bool
    expects_continue: bool
    environ: dict[str, str]
    body: bytes = b""
    whole: bool = False


@dataclass
class Transcript:
    """All that a parser said about one connection."""

    requests: list[Seen] = field(default_factory=list)
    status: int | None = None  # of the ProtocolError, if there was one
    at_boundary: bool = False
    truncated: bool = False


def read(
    pieces: Iterable[bytes], limits: HTTPLimits | None = None, *, end_of_file: bool = False
) -> Transcript:
    """Feed `pieces` to a new parser, taking out all messages after each."""
    parser = HTTPRequest(limits or HTTPLimits())
    transcript = Transcript()
    for piece in pieces:
        parser.receive_data(piece)
        if not take_all(parser, transcript):
            return transcript
    if end_of_file:
        parser.receive_data(b"")
        take_all(parser, transcript)
    transcript.at_boundary = parser.at_boundary
    transcript.truncated = parser.truncated
    return transcript


def take_all(parser: HTTPRequest, transcript: Transcript) -> bool:
    """Take out and write down messages until more data is needed; False after a fault."""
    try:
        while (message := parser.next_message()) is not NEED_DATA:
            write_down(message, transcript)
    except ProtocolError as error:
        transcript.status = error.status
        return False
    return True


def write_down(message: Message, transcript: Transcript) -> None:
    """Add to `transcript` what a parser gave out."""
    if isinstance(message, RequestHead):
        transcript.requests.append(seen(message))
    elif message is END_OF_MESSAGE:
        transcript.requests[-1].whole = True
    else:
        assert type(message) is bytes, "a piece of a body"
        assert message, "a piece of a body is never empty"
        transcript.requests[-1].body += message


def seen(head: RequestHead) -> Seen:
    """Write down a head; its body is still to come."""
    return Seen(
        head.method,
        head.target,
        head.path,
        head.query,
        head.minor,
        head.authority,
        head.keep_alive,
        head.fields.expects_continue,
        dict(head.fields.environ),
        whole=not head.has_body,
    )


def cuttings(data: bytes, *, random_ones: int = 8) -> Iterator[list[bytes]]:
    """Yield `data` whole, octet by octet, cut in two at every place, and at random ones.

    The random cuttings are the same in every run: their seed is the data.
    """
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]
    seeded = random.Random(data)
    for _ in range(random_ones if len(data) > 2 else 0):
        count = seeded.randrange(1, min(len(data), 12))
        yield cut(data, seeded.sample(range(1, len(data)), count))


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut `data` at `places`."""
    edges = [0, *sorted(set(places)), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges) if begin < end]
