"""Every file of tests/corpus, in every cutting."""

from __future__ import annotations

import pytest

from tests.corpus.cases import CORPUS, Case, invalid_cases, valid_cases
from tests.corpus.reading import Transcript, cuttings, read
from tests.corpus.reference import reference_read


def name_of(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", valid_cases(), ids=name_of)
def test_valid_bytes_become_the_expected_requests(case: Case) -> None:
    transcript = Transcript(
        list(case.requests), at_boundary=not case.truncated, truncated=case.truncated
    )
    for pieces in cuttings(case.data):
        assert read(pieces, case.limits, end_of_file=True) == transcript, pieces


@pytest.mark.parametrize("case", invalid_cases(), ids=name_of)
def test_invalid_bytes_are_refused_with_the_expected_status(case: Case) -> None:
    whole = read([case.data], case.limits)
    assert whole.status == case.status
    assert sum(request.whole for request in whole.requests) == case.after
    for pieces in cuttings(case.data):
        assert read(pieces, case.limits) == whole, pieces


@pytest.mark.parametrize("case", valid_cases() + invalid_cases(), ids=name_of)
def test_the_slow_reference_says_what_the_files_say(case: Case) -> None:
    transcript = reference_read(case.data, case.limits)
    assert transcript.status == case.status
    if case.status is None:
        assert transcript.requests == list(case.requests)
        assert transcript.at_boundary is not case.truncated
    else:
        assert sum(request.whole for request in transcript.requests) == case.after


@pytest.mark.parametrize("kind", ["valid", "invalid"])
def test_no_file_of_the_corpus_is_without_its_other_half(kind: str) -> None:
    stems = {
        suffix: {path.stem for path in (CORPUS / kind).glob(f"*{suffix}")}
        for suffix in (".http", ".json")
    }
    assert stems[".http"] == stems[".json"] != set()


def test_no_two_cases_are_the_same_but_for_their_names() -> None:
    first: dict[object, str] = {}
    for case in valid_cases() + invalid_cases():
        assert first.setdefault((case.data, case.limits), case.name) == case.name
