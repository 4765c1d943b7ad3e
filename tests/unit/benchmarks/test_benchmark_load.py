"""What the load generators report is read exactly, or refused."""

from __future__ import annotations

import pytest

from benchmarks.load import (
    LoadError,
    Measurement,
    aiohttp_command,
    as_json,
    parse_json,
    parse_wrk,
    wrk_command,
)
from benchmarks.scenarios import SCENARIOS, Scenario

QUIET = """\
Running 3s test @ http://127.0.0.1:8123/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   181.33us   20.16us   1.50ms   91.62%
    Req/Sec   174.75k     3.41k  178.07k    96.67%
  Latency Distribution
     50%  181.50us
     75%  190.00us
     90%  203.00us
     99%    1.25ms
  521000 requests in 3.00s, 46.20MB read
Requests/sec: 173635.84
Transfer/sec:     15.40MB
"""

TROUBLED = (
    QUIET.replace("99%    1.25ms", "99%    2.00s")
    .replace("50%  181.50us", "50%    1.50m")
    .replace(
        "Requests/sec:",
        "  Socket errors: connect 1, read 20, write 0, timeout 3\n"
        "  Non-2xx or 3xx responses: 7\nRequests/sec:",
    )
)


def test_a_run_without_errors_is_read() -> None:
    assert parse_wrk(QUIET) == Measurement(
        requests=521000, rate=173635.84, p50_us=181.5, p99_us=1250.0
    )


def test_every_kind_of_error_is_counted() -> None:
    measured = parse_wrk(TROUBLED)
    assert measured.error_responses == 7
    assert measured.socket_errors == {"connect": 1, "read": 20, "timeout": 3}
    assert measured.errors == 31


def test_latencies_of_seconds_and_minutes_are_read() -> None:
    measured = parse_wrk(TROUBLED)
    assert (measured.p50_us, measured.p99_us) == (90e6, 2e6)


@pytest.mark.parametrize("line", ["Requests/sec", "99%", "requests in"])
def test_a_report_that_lacks_a_figure_is_refused(line: str) -> None:
    cut = "\n".join(kept for kept in QUIET.splitlines() if line not in kept)
    with pytest.raises(LoadError, match="lacks"):
        parse_wrk(cut)


def test_a_measurement_survives_the_way_through_json() -> None:
    measured = parse_wrk(TROUBLED)
    assert parse_json(as_json(measured)) == measured


@pytest.mark.parametrize("text", ["", "Traceback", "[]", '{"requests": 1}', '{"pages": 1}'])
def test_a_result_that_is_no_measurement_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match="unreadable"):
        parse_json(text)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_wrk_is_given_the_headers_and_connections_of_the_scenario(scenario: Scenario) -> None:
    argv = wrk_command("http://127.0.0.1:1/", scenario, 2)
    assert f"-c{scenario.connections}" in argv
    assert "-d2s" in argv
    assert [word for word in argv if word.startswith("-H")] == [
        f"-H{name}: {value}" for name, value in scenario.headers
    ]


def test_wrk_never_runs_for_no_time_at_all() -> None:
    assert "-d1s" in wrk_command("http://127.0.0.1:1/", SCENARIOS[0], 0.2)


def test_the_python_generator_gets_the_same_as_wrk() -> None:
    scenario = SCENARIOS[1]
    argv = aiohttp_command("http://127.0.0.1:1/", scenario, 2.0)
    assert argv[3:6] == ["http://127.0.0.1:1/", str(scenario.connections), "2.0"]
    for name, _ in scenario.headers:
        assert f'"{name}"' in argv[6]
