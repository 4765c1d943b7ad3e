"""Every file of tests/corpus, in every cutting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from httpcore_srv.settings import HTTPLimits
from tests.corpus.reading import Seen, Transcript, cuttings, read

CORPUS = Path(__file__).parents[2] / "corpus"


def cases(kind: str) -> list[Any]:
    return [
        pytest.param(
            path.read_bytes(), json.loads(path.with_suffix(".json").read_text()), id=path.stem
        )
        for path in sorted((CORPUS / kind).glob("*.http"))
    ]


def limits_of(expected: dict[str, Any]) -> HTTPLimits:
    return HTTPLimits(**expected.get("limits", {}))


def seen_of(request: dict[str, Any]) -> Seen:
    defaults = {"authority": None, "expects_continue": False, "body": "", "whole": True}
    given = {**defaults, **request}
    given["body"] = given["body"].encode("latin-1")
    return Seen(**given)


@pytest.mark.parametrize(("data", "expected"), cases("valid"))
def test_valid_bytes_become_the_expected_requests(data: bytes, expected: dict[str, Any]) -> None:
    truncated = expected.get("ends") == "truncated"
    transcript = Transcript(
        [seen_of(request) for request in expected["requests"]],
        at_boundary=not truncated,
        truncated=truncated,
    )
    for pieces in cuttings(data):
        assert read(pieces, limits_of(expected), end_of_file=True) == transcript, pieces


@pytest.mark.parametrize(("data", "expected"), cases("invalid"))
def test_invalid_bytes_are_refused_with_the_expected_status(
    data: bytes, expected: dict[str, Any]
) -> None:
    whole = read([data], limits_of(expected))
    assert whole.status == expected["status"]
    assert sum(request.whole for request in whole.requests) == expected.get("after", 0)
    for pieces in cuttings(data):
        assert read(pieces, limits_of(expected)) == whole, pieces


@pytest.mark.parametrize("kind", ["valid", "invalid"])
def test_no_file_of_the_corpus_is_without_its_other_half(kind: str) -> None:
    stems = {
        suffix: {path.stem for path in (CORPUS / kind).glob(f"*{suffix}")}
        for suffix in (".http", ".json")
    }
    assert stems[".http"] == stems[".json"] != set()
