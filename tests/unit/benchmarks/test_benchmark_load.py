"""What the load generators report is read exactly, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.load import (
    LoadError,
    Measurement,
    aiohttp_command,
    as_json,
    lua_string,
    parse_json,
    parse_wrk,
    wrk_command,
    wrk_script,
)
from benchmarks.scenarios import SCENARIOS, VARIANTS, Scenario

RATED = [scenario for scenario in SCENARIOS if scenario.kind == "rate"]

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
     99.9% 2100.00us
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
        521000, 173635.84, p50_us=181.5, p99_us=1250.0, p90_us=203.0, p999_us=2100.0
    )


def test_every_kind_of_error_is_counted() -> None:
    measured = parse_wrk(TROUBLED)
    assert measured.error_responses == 7
    assert measured.socket_errors == {"connect": 1, "read": 20, "timeout": 3}
    assert measured.errors == 31


def test_latencies_of_seconds_and_minutes_are_read() -> None:
    measured = parse_wrk(TROUBLED)
    assert (measured.p50_us, measured.p99_us) == (90e6, 2e6)


def test_a_generator_that_does_not_say_it_has_no_last_percentile() -> None:
    cut = "\n".join(line for line in QUIET.splitlines() if "99.9%" not in line)
    assert parse_wrk(cut).p999_us == 0.0


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


@pytest.mark.parametrize("scenario", RATED, ids=lambda scenario: scenario.name)
def test_wrk_is_given_the_requests_and_connections_of_the_scenario(
    scenario: Scenario, tmp_path: Path
) -> None:
    argv = wrk_command(1, scenario, 2, tmp_path)
    assert f"-c{scenario.connections}" in argv
    assert "-d2s" in argv
    (script,) = [word.removeprefix("-s") for word in argv if word.startswith("-s")]
    text = Path(script).read_bytes()
    assert text.count(b"Host: 127.0.0.1:1\\013\\010") == (
        len(scenario.requests()) * scenario.pipeline
    )


def test_wrk_never_runs_for_no_time_at_all(tmp_path: Path) -> None:
    assert "-d1s" in wrk_command(1, SCENARIOS[0], 0.2, tmp_path)


def test_wrk_asks_for_a_request_each_time_only_where_they_differ() -> None:
    named = {scenario.name: wrk_script(scenario, "host") for scenario in RATED}
    asked = {name for name, script in named.items() if b"function request()" in script}
    assert asked == {"browser", "flask"}


def test_any_bytes_are_one_string_of_lua() -> None:
    assert lua_string(b'a"b\\c\r\n\x00\xff9') == rb'"a\034b\092c\013\010\000\2559"'


@pytest.mark.parametrize("name", ["browser", "flask"])
def test_where_requests_differ_none_is_sent_twice_in_a_row(name: str) -> None:
    (scenario,) = [scenario for scenario in SCENARIOS if scenario.name == name]
    requests = scenario.requests()
    assert len(requests) == VARIANTS
    assert len({request.headers for request in requests}) == VARIANTS
    assert len({request.path for request in requests}) == (VARIANTS if name == "browser" else 1)
    assert {len(request.headers) for request in requests} == {14}
    assert len({len(request.as_bytes("host")) for request in requests}) == 1


def test_content_is_announced_and_sent() -> None:
    (post,) = [scenario for scenario in SCENARIOS if scenario.name == "post"]
    head, _, content = post.requests()[0].as_bytes("host").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /echo HTTP/1.1\r\nHost: host\r\n")
    assert b"Content-Length: 1024" in head.split(b"\r\n")
    assert content == post.body


def test_the_python_generator_gets_the_same_as_wrk(tmp_path: Path) -> None:
    scenario = SCENARIOS[1]
    argv = aiohttp_command(1, scenario, 2.0, tmp_path)
    assert argv[3:6] == ["http://127.0.0.1:1", str(scenario.connections), "2.0"]
    requests = json.loads(Path(argv[6]).read_text())
    assert len(requests) == VARIANTS
    assert [name for name, _ in requests[0]["headers"]] == [name for name, _ in scenario.headers]


def test_the_python_generator_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    (pipelined,) = [scenario for scenario in SCENARIOS if scenario.name == "pipelined"]
    with pytest.raises(LoadError, match="does not pipeline"):
        aiohttp_command(1, pipelined, 2.0, tmp_path)
