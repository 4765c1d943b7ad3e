"""Valid connections, spoilt in the ways in which clients, proxies and attackers spoil them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, TypeAlias

Mutation: TypeAlias = Callable[[Random, bytes, Sequence[bytes]], bytes]

LINE_ENDS: Final = (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\r\n", b" \r\n", b"\r\n ", b"")
HOSTILE: Final = (
    b"\0\x01\t\n\x0b\x0c\r !\"#%'()*+,-./019:;<=>?@AFGZ[\\]_`az{|}~\x7f\x80\x85\xa0\xff"
)
PIECES: Final = (
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content_Length: 3\r\n",
    b"Host: example.org\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n",
    b" folded\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"http://example.org",
    b"[::1]",
    b"%00",
    b"%2e",
    b"chunked",
    b"identity",
    b"0\r\n\r\n",
    b"5;a=b\r\nhello\r\n",
    b"ffffffffffffffff\r\n",
    b'="\\"',
    b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
)


def mutated(random: Random, connections: Sequence[bytes]) -> bytes:
    """Return one of the connections, with one to four things changed."""
    data = random.choice(connections)
    for _ in range(random.choice((1, 1, 1, 1, 2, 2, 3, 4))):
        data = random.choice(MUTATIONS)(random, data, connections)
    return data


def flip_bit(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Another octet by one bit."""
    if not data:
        return data
    place = random.randrange(len(data))
    octet = data[place] ^ 1 << random.randrange(8)
    return data[:place] + bytes([octet]) + data[place + 1 :]


def put_octet(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Another octet, or one more."""
    place = random.randint(0, len(data))
    octet = bytes([random.choice(HOSTILE)])
    return data[:place] + octet + data[place + random.randint(0, 1) :]


def put_piece(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Something that means something, at the beginning of a line or anywhere."""
    places = _line_starts(data) if random.randint(0, 2) else range(len(data) + 1)
    place = random.choice(places)
    return data[:place] + random.choice(PIECES) + data[place:]


def delete(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Some octets less."""
    begin, end = _some(random, data)
    return data[:begin] + data[end:]


def duplicate(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Some octets twice."""
    begin, end = _some(random, data)
    return data[:end] + data[begin:]


def cut_short(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A client that leaves."""
    return data[: random.randint(0, len(data))]


def duplicate_line(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A line twice, not always in the same place."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    lines.insert(random.randint(0, len(lines)), random.choice(lines))
    return b"".join(lines)


def delete_line(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A line less."""
    lines = data.splitlines(keepends=True)
    if lines:
        del lines[random.randrange(len(lines))]
    return b"".join(lines)


def swap_lines(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Two lines in the other order."""
    lines = data.splitlines(keepends=True)
    if len(lines) > 1:
        place = random.randrange(len(lines) - 1)
        lines[place : place + 2] = reversed(lines[place : place + 2])
    return b"".join(lines)


def change_line_end(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Another line end, or all of them."""
    parts = data.split(b"\r\n")
    line_end = random.choice(LINE_ENDS)
    if len(parts) == 1 or random.randint(0, 7) == 0:
        return line_end.join(parts)
    place = random.randrange(1, len(parts))
    return b"\r\n".join(parts[:place]) + line_end + b"\r\n".join(parts[place:])


def change_number(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Another digit: of a length, a size, a version, a port."""
    places = [place for place, octet in enumerate(data) if octet in b"0123456789"]
    if not places:
        return data
    place = random.choice(places)
    return data[:place] + random.choice((b"0", b"1", b"9", b"10", b"-1", b"f")) + data[place + 1 :]


def splice(random: Random, data: bytes, connections: Sequence[bytes]) -> bytes:
    """The beginning of one connection and the end of another."""
    other = random.choice(connections)
    if random.randint(0, 1):
        begin, end = random.choice(_line_starts(data)), random.choice(_line_starts(other))
    else:
        begin, end = random.randint(0, len(data)), random.randint(0, len(other))
    return data[:begin] + other[end:]


def follow(random: Random, data: bytes, connections: Sequence[bytes]) -> bytes:
    """One connection's requests behind another's."""
    return data + random.choice(connections)


MUTATIONS: Final[tuple[Mutation, ...]] = (
    flip_bit,
    put_octet,
    put_piece,
    delete,
    duplicate,
    cut_short,
    duplicate_line,
    delete_line,
    swap_lines,
    change_line_end,
    change_number,
    splice,
    follow,
)


def _some(random: Random, data: bytes) -> tuple[int, int]:
    begin = random.randint(0, len(data))
    return begin, min(len(data), begin + random.choice((1, 1, 2, 3, 8, 40)))


def _line_starts(data: bytes) -> list[int]:
    return [0, *(place + 1 for place, octet in enumerate(data) if octet == 0x0A)]
