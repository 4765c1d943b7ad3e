"""The options that replace workers and bound their memory: from the text to the settings."""

from __future__ import annotations

import pytest

import loader
from loader import Options, UsageError

DAY_S = 86_400


def parse(*argv: str, **environ: str) -> Options:
    options = loader.parse(("app:app", *argv), environ, prog="smart-http")
    assert isinstance(options, Options)
    return options


def test_unless_asked_for_no_worker_is_replaced_and_no_memory_is_bounded() -> None:
    options = parse()
    assert options.max_requests == options.max_requests_jitter == options.max_age_s == 0
    assert options.max_worker_memory_bytes == options.memory_limit_bytes == 0


def test_what_is_given_comes_through() -> None:
    options = parse(
        "--max-requests=1000",
        "--max-requests-jitter=100",
        "--max-age=3600",
        "--max-worker-memory=256m",
        SMART_HTTP_MEMORY_LIMIT="2g",
    )
    assert (options.max_requests, options.max_requests_jitter) == (1000, 100)
    assert options.max_age_s == 3600
    assert options.max_worker_memory_bytes == 256 << 20
    assert options.memory_limit_bytes == 2 << 30


@pytest.mark.parametrize(
    ("option", "text", "remedy"),
    [
        ("--max-requests", "-1", "give 0 to"),
        ("--max-requests", "1.5", "give 0 to"),
        ("--max-requests-jitter", "-1", "give 0 to"),
        ("--max-age", "0.5", "give seconds, 1 to"),
        ("--max-age", "nan", "seconds"),
        ("--max-age", "1h", "without a unit"),
        ("--max-worker-memory", "10", "give 1m to"),
        ("--max-worker-memory", "-1m", "size"),
        ("--memory-limit", "1Z", "with k, m or g"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(option: str, text: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(f"{option}={text}")
    message = str(caught.value)
    assert option in message
    assert text in message
    assert remedy in message
    assert "\n" not in message
    assert caught.value.exit_status == 2


def test_a_jitter_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        parse("--max-requests-jitter", "10")
    expected = "--max-requests-jitter '10' does nothing without --max-requests"
    assert str(caught.value) == expected
    with pytest.raises(UsageError, match="SMART_HTTP_MAX_REQUESTS_JITTER '3' does nothing"):
        parse(SMART_HTTP_MAX_REQUESTS_JITTER="3")
    assert parse("--max-requests-jitter", "0").max_requests_jitter == 0
