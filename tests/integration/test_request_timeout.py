"""--request-timeout: 504 for the client, a new thread for the others, the stack for the log."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

from tests.integration.keep_alive_clients import KeepAliveClients
from tests.integration.raw_client import (
    RawClient,
    all_threads_serve,
    incidents,
    ordinary_requests_are_answered,
    request,
)
from tests.integration.server_process import Answer, Background, Hold, ServerProcess, eventually
from tests.integration.side_by_side import SideBySide, Stage

KINDS = ("list", "generator", "write", "file", "hints", "error")

play = SideBySide()
outcomes = play.outcomes


def serve(stage: Stage, threads: int, *arguments: str, timeout_s: float = 0.4) -> ServerProcess:
    """Start one worker that does not wait for ever."""
    limits = ("--max-workers", "1", "--max-threads", str(threads))
    timeout = ("--request-timeout", str(timeout_s))
    return stage.serve("slow_answers:app", *limits, *timeout, *arguments)


def assert_timed_out(answer: Answer) -> None:
    """It says so, and that the connection ends."""
    assert answer.status == 504
    assert answer.headers["connection"] == "close"
    assert b"504" in answer.body


@play
def test_whatever_hangs_is_answered_504_and_the_others_are_served(stage: Stage) -> None:
    server = serve(stage, 2)
    hangs = ["sleeps_for_long", "waits_for_a_lock", "computes_for_ever"]
    for _ in range(2):
        # One more than there are threads; so the last waits until others are written off.
        stuck = [stage.begin(server, f"/{name}") for name in hangs]
        ordinary_requests_are_answered(server)
        for client in stuck:
            assert_timed_out(client.response())
            assert client.rest() == b""
    all_threads_serve(server, 2)
    assert incidents(server) == {"request_timeout": 6}
    log = server.log()
    for name in hangs:
        assert log.count(f", in {name}\n") == log.count(f"GET /{name}: no response after") == 2
    status = server.status()
    assert (status["restarts"], status["lost"]) == (0, 0)


@play
def test_a_thread_that_comes_back_is_used_again(stage: Stage) -> None:
    server = serve(stage, 8)
    worker = server.workers()
    hold = Hold(stage.directory / "hold")
    stage.callback(hold.close)
    assert_timed_out(server.get(f"/hold?fifo={hold.path}"))
    status = server.eventually(lambda s: s["written_off"] == 1)
    assert status["workers"][0]["written_off"] == 1
    assert "1 written off" in server.command("status").stdout
    assert status["busy_threads"] == 0
    all_threads_serve(server, 8)
    hold.release()
    server.eventually(lambda s: s["written_off"] == 0)
    all_threads_serve(server, 8)
    status = server.status()
    assert server.workers() == worker
    # It and those that stood in for it; the leader is one more.
    assert status["threads"] <= 10
    assert status["busy_threads"] == status["streams"] == 0


@play
def test_a_late_response_reaches_nobody(stage: Stage) -> None:
    server = serve(stage, 80, timeout_s=0.2)
    over = threading.Event()

    def ask_too_much(number: int) -> int:
        timed_out = 0
        for turn in range(4):
            # The first come about in time, some in the very moment in which time is over.
            target = f"/late?ms={200 + 9 * number + 5 * turn}&kind={KINDS[number % len(KINDS)]}"
            with RawClient(server) as client:
                client.ask(target, headers={"Connection": "close"})
                answers = [client.response()]
                while answers[-1].status == 103:
                    answers.append(client.response())
                assert client.rest() == b""
            if answers[-1].status == 504:
                timed_out += 1
            elif "error" not in target:
                assert (answers[-1].status, answers[-1].body) == (200, b"late" * 2000)
            else:
                assert answers[-1].status == 500
        return timed_out

    def ask_little(number: int) -> int:
        asked = 0
        while not over.is_set():
            token = f"{number}-{asked};"
            # The numbers of descriptors that were closed a moment ago are given out anew.
            with RawClient(server) as client:
                head = {"Connection": "close"}
                client.send(request(f"/mark?token={token}", headers=head))
                answer = client.response()
                assert (answer.status, answer.text) == (200, token * 100)
                assert client.rest() == b""
            asked += 1
        return asked

    with ThreadPoolExecutor(22) as threads:
        little = [threads.submit(ask_little, number) for number in range(4)]
        too_much = [threads.submit(ask_too_much, number) for number in range(18)]
        try:
            timed_out = sum(future.result() for future in too_much)
            server.eventually(lambda s: s["written_off"] == 0)
        finally:
            over.set()
        assert sum(future.result() for future in little) > 100
    assert timed_out > 10
    assert incidents(server) == {"request_timeout": timed_out}
    assert server.log().count("no response after") == timed_out
    server.eventually(lambda s: s["connections"] == 0)


@play
def test_a_response_that_has_begun_in_time_is_never_answered_504(stage: Stage) -> None:
    server = serve(stage, 4)
    ends = ["/begun?ms=900", "/begun?ms=700"]
    clients = [stage.begin(server, target) for target in ends]
    bodies = [client.response() for client in clients]
    pid = server.workers()[0]
    assert [(body.status, body.text) for body in bodies] == [(200, f"begun, ended by {pid}")] * 2
    status = server.status()
    assert (incidents(server), status["written_off"], status["errors"]) == ({}, 0, 0)


@play
def test_hints_are_no_response_yet(stage: Stage) -> None:
    server = serve(stage, 8)
    client = stage.begin(server, "/hints?count=2&ms=1500")
    assert [client.response().status for _ in range(2)] == [103, 103]
    assert_timed_out(client.response())
    assert client.rest() == b""
    server.eventually(lambda s: s["written_off"] == 0)


@play
def test_what_was_pipelined_behind_it_is_not_answered(stage: Stage) -> None:
    server = serve(stage, 8)
    client = stage.client(server)
    # The first two show that a kept connection is written off like a new one.
    client.send(request("/ready") + request("/ready"))
    assert [client.response().text for _ in range(2)] == ["ready\n"] * 2
    client.send(request("/late?ms=1500") + request("/mark?token=x"))
    assert_timed_out(client.response())
    assert client.rest() == b""


@play
def test_a_worker_with_stuck_threads_is_replaced_and_nobody_notices(stage: Stage) -> None:
    server = serve(stage, 4)
    old = server.workers()
    hold = Hold(stage.directory / "hold")
    stage.callback(hold.close)
    with KeepAliveClients(server.address, 20, pause_s=0.02) as clients:
        clients.wait_for(100)
        running = Background(server, f"/begun?fifo={hold.path}")
        hold.wait()
        stuck = [Background(server, "/waits_for_a_lock") for _ in range(2)]
        for each in stuck:
            answer = each.result()
            assert isinstance(answer, Answer)
            assert_timed_out(answer)
        server.eventually(lambda s: s["kill_pending"] == 1 and s["busy"] + s["idle"] == 1)
        eventually(lambda: set(server.workers()) - set(old))
        clients.wait_for(200)
        hold.release()
        answer = running.result()
        assert isinstance(answer, Answer)
        assert answer.text == f"begun, ended by {old[0]}"
        server.eventually(lambda s: s["total"] == 1)
        clients.wait_for(100)
    assert not set(old) & set(server.workers())
    assert clients.failures == clients.closings == []
    assert (clients.announced, clients.opened) == (0, 20)
    status = server.status()
    assert (status["restarts"], status["lost"], status["written_off"]) == (0, 0, 0)
    assert "threads that are stuck" in server.log()


@play
def test_stuck_threads_do_not_keep_the_server_from_ending(stage: Stage) -> None:
    server = serve(stage, 16)
    hangs = ["/sleeps_for_long", "/waits_for_a_lock", "/computes_for_ever"]
    for client in [stage.begin(server, target) for target in hangs]:
        assert_timed_out(client.response())
        client.close()
    server.eventually(lambda s: s["written_off"] == 3)
    assert server.stop(signal.SIGTERM, within_s=15) == 0  # the graceful timeout is 30
    assert "in time" not in server.log()
    assert "SIGKILL" not in server.log()
