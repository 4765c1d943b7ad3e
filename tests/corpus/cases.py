"""The files of the corpus, as values."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from httpcore_srv.settings import HTTPLimits
from tests.corpus.reading import Seen

CORPUS: Final = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One connection: what is sent, and what must be made of it.

    requests: of a valid one. status, after: of an invalid one.
    """

    name: str
    data: bytes
    limits: HTTPLimits
    requests: tuple[Seen, ...] = ()
    truncated: bool = False
    status: int | None = None
    after: int = 0


@functools.cache
def valid_cases() -> tuple[Case, ...]:
    """Return the valid connections."""
    return tuple(
        Case(
            name,
            data,
            _limits(expected),
            tuple(_seen(request) for request in expected["requests"]),
            expected.get("ends") == "truncated",
        )
        for name, data, expected in _files("valid")
    )


@functools.cache
def invalid_cases() -> tuple[Case, ...]:
    """Return those with a fault."""
    return tuple(
        Case(
            name,
            data,
            _limits(expected),
            status=expected["status"],
            after=expected.get("after", 0),
        )
        for name, data, expected in _files("invalid")
    )


def connections(longest: int = 500) -> list[bytes]:
    """Return the octets of all but the longest cases, to be mutated; valid ones more often."""
    cases = valid_cases() * 8 + invalid_cases()
    return [case.data for case in cases if len(case.data) <= longest]


def _files(kind: str) -> list[tuple[str, bytes, dict[str, Any]]]:
    return [
        (path.stem, path.read_bytes(), json.loads(path.with_suffix(".json").read_text()))
        for path in sorted((CORPUS / kind).glob("*.http"))
    ]


def _limits(expected: dict[str, Any]) -> HTTPLimits:
    return HTTPLimits(**expected.get("limits", {}))


def _seen(request: dict[str, Any]) -> Seen:
    defaults = {"authority": None, "expects_continue": False, "body": "", "whole": True}
    given = {**defaults, **request}
    given["body"] = given["body"].encode("latin-1")
    return Seen(**given)
