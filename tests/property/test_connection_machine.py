"""Connection against its table: a client that sends anything, cut anywhere, and an owner.

It shares the worker's memory with others, who may leave it little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from httpcore_srv.connection import NEXT, Connection, Event, State
from httpcore_srv.errors import ProtocolError
from httpcore_srv.messages import RequestHead
from httpcore_srv.settings import HTTPLimits
from tests.fakes.store import SpyStore

LIMITS = HTTPLimits(body_memory_bytes=32)
BUDGET_BYTES = 300

RECEIVING = (State.AWAITING_HEAD, State.RECEIVING_HEAD, State.RECEIVING_BODY)


class Sent(NamedTuple):
    """A request as its client sent it."""

    head: bytes
    encoded_body: bytes
    target: str
    body: bytes
    expects: bool

    @property
    def raw(self) -> bytes:
        return self.head + self.encoded_body


@st.composite
def requests(draw: Any) -> Sent:
    """A good request, with or without a body, of either framing."""
    target = "/" + draw(st.text("abc123", max_size=5))
    lines = "Host: h\r\n" + draw(st.sampled_from(["", "X-Any: thing\r\n"]))
    kind = draw(st.sampled_from(["none", "none", "length", "chunked"]))
    body = b"" if kind == "none" else draw(st.binary(max_size=80))
    encoded, expects = body, False
    if kind == "length":
        lines += f"Content-Length: {len(body)}\r\n"
    elif kind == "chunked":
        lines += "Transfer-Encoding: chunked\r\n"
        cut = draw(st.integers(0, len(body)))
        encoded = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:cut], body[cut:]) if p)
        encoded += b"0\r\n\r\n"
    if encoded and draw(st.booleans()):
        lines += "Expect: 100-continue\r\n"
        expects = True
    head = f"POST {target} HTTP/1.1\r\n{lines}\r\n".encode()
    return Sent(head, encoded, target, body, expects)


class ConnectionMachine(RuleBasedStateMachine):
    """The model: what was put on the wire, and what of it is still to come out."""

    @initialize()
    def begin(self) -> None:
        self.store = SpyStore(BUDGET_BYTES)
        self.others = 0  # bytes of the budget that other connections have taken
        self.connect()

    def connect(self) -> None:
        self.connection = Connection(LIMITS, self.store)
        self.sent: deque[Sent] = deque()  # not handed out yet, oldest first
        self.wire = b""  # sent and not received yet
        self.pending = b""  # received and not part of a request handed out
        self.running: Sent | None = None
        self.waiting = False  # it was handed out and nobody has taken its body yet

    def teardown(self) -> None:
        if self.connection.state is not State.CLOSING:
            self.connection.fault()
        assert self.store.used == self.others
        self.store.close()

    # -- the other connections ---------------------------------------------------------------

    @rule(size=st.integers(0, BUDGET_BYTES))
    def others_take(self, size: int) -> None:
        if self.store.take(size):
            self.others += size

    @rule()
    def others_give(self) -> None:
        self.store.give(self.others)
        self.others = 0

    # -- the client ------------------------------------------------------------------------

    @rule(request=requests())
    def send(self, request: Sent) -> None:
        self.sent.append(request)
        self.wire += request.raw

    @precondition(lambda self: self.wire and self.connection.state in RECEIVING)
    @rule(amount=st.integers(1, 200))
    def receive(self, amount: int) -> None:
        data, self.wire = self.wire[:amount], self.wire[amount:]
        self.pending += data
        self._look(lambda: self.connection.receive(data))

    @precondition(lambda self: self.wire and self.connection.state in RECEIVING)
    @rule()
    def receive_all(self) -> None:
        self.receive(len(self.wire))

    @precondition(lambda self: self.connection.state in RECEIVING)
    @rule()
    def look_again(self) -> None:
        self._look(self.connection.next_request)

    @precondition(lambda self: self.connection.state is State.AWAITING_HEAD and not self.pending)
    @rule(
        noise=st.sampled_from([b"\n", b"GET\r\n", b"\x00 / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\n"])
    )
    def receive_noise(self, noise: bytes) -> None:
        with pytest.raises(ProtocolError):
            self.connection.receive(noise)
        assert self.connection.state is State.CLOSING

    def _look(self, look: Callable[[], RequestHead | None]) -> None:
        try:
            self._handed_out(look())
        except ProtocolError as error:
            self._no_room(error)

    def _no_room(self, error: ProtocolError) -> None:
        # What there was can only have been too little for what had to wait.
        assert error.status == 503
        assert len(self.pending) + self._waiting_bytes() > BUDGET_BYTES - self.others

    def _waiting_bytes(self) -> int:
        return len(self.running.body) if self.running else 0

    def _handed_out(self, head: RequestHead | None) -> None:
        whole = self.sent and len(self.pending) >= len(self.sent[0].raw)
        assert (head is not None) == bool(whole)
        if head is None:
            return
        request = self.sent.popleft()
        self.pending = self.pending[len(request.raw) :]
        self.running = request
        assert head.target == request.target
        assert self.connection.body_length == len(request.body)
        self.waiting = True

    # -- the owner -------------------------------------------------------------------------

    @precondition(lambda self: self.connection.state is State.RESPONDING and self.waiting)
    @rule()
    def wait_for_a_thread(self) -> None:
        try:
            self.connection.hold()
        except ProtocolError as error:
            self._no_room(error)
            self.connection.fault()
            return
        assert self.store.used - self.others <= len(self.pending) + self._waiting_bytes()

    @precondition(lambda self: self.connection.state is State.RESPONDING and self.waiting)
    @rule()
    def run(self) -> None:
        assert self.running is not None
        self.waiting = False
        with self.connection.take_body() as body:
            assert body.read() == self.running.body
            if len(self.running.body) > LIMITS.body_memory_bytes:
                assert body in self.store.made

    @precondition(lambda self: self.connection.state is State.RESPONDING and not self.waiting)
    @rule(keep=st.booleans() | st.just(True))
    def respond(self, keep: bool) -> None:
        if keep:
            self.connection.done_and_kept()
        else:
            self.connection.done_and_closed()
        self.running = None
        assert self.connection.at_rest is keep

    @precondition(lambda self: self.connection.state in (State.AWAITING_HEAD, State.RECEIVING_HEAD))
    @rule()
    def move_to_another_process(self) -> None:
        unparsed = self.connection.unparsed()
        assert unparsed == self.pending
        self.connection.fault()  # as its owner does when it closes the socket
        self.connection = Connection(LIMITS, self.store)
        if unparsed:
            self._look(lambda: self.connection.receive(unparsed))

    @precondition(lambda self: self.connection.state is not State.CLOSING)
    @rule()
    def give_up(self) -> None:
        self.connection.fault()
        assert self.connection.state is State.CLOSING

    @precondition(lambda self: self.connection.state is State.CLOSING)
    @rule()
    def next_client(self) -> None:
        assert all(file.closed for file in self.store.made)
        self.connect()

    @rule(event=st.sampled_from([Event.DONE_KEEP, Event.DONE_CLOSE, Event.FAULT]))
    def do_what_is_no_entry(self, event: Event) -> None:
        state = self.connection.state
        if event in NEXT[state]:
            return
        owner_does = {
            Event.DONE_KEEP: lambda: self.connection.done_and_kept(),
            Event.DONE_CLOSE: lambda: self.connection.done_and_closed(),
            Event.FAULT: self.connection.fault,
        }
        with pytest.raises(KeyError):
            owner_does[event]()
        assert self.connection.state is state

    # -- always ----------------------------------------------------------------------------

    @invariant()
    def the_state_says_what_is_there(self) -> None:
        state = self.connection.state
        assert self.connection.at_rest is (state is State.AWAITING_HEAD)
        assert (self.running is not None) == (state is State.RESPONDING) or state is State.CLOSING
        if state is State.CLOSING:
            return
        assert self.connection.has_unread is bool(self.pending)
        if state in (State.RECEIVING_HEAD, State.RECEIVING_BODY):
            head = self.sent[0].head
            assert (len(self.pending) >= len(head)) is (state is State.RECEIVING_BODY)

    @invariant()
    def it_takes_no_more_memory_than_what_it_has_received(self) -> None:
        taken = self.store.used - self.others
        waiting = len(self.running.raw) if self.running and self.waiting else 0
        assert 0 <= taken <= len(self.pending) + waiting
        if self.connection.state in (State.CLOSING, State.AWAITING_HEAD):
            assert taken == 0
        if self.connection.state is State.RECEIVING_HEAD:
            assert taken == len(self.pending)

    @invariant()
    def it_asks_for_a_body_only_while_nothing_of_it_has_come(self) -> None:
        connection = self.connection
        if connection.state is State.RECEIVING_BODY:
            request = self.sent[0]
            content = len(self.pending) - len(request.head)
            # A part of a chunk's size line is nothing of the body yet.
            if request.expects and content == 0:
                assert connection.wants_continue
            elif not request.expects or request.body == request.encoded_body:
                assert not connection.wants_continue
        elif connection.state is not State.CLOSING:
            assert not connection.wants_continue


TestConnection = ConnectionMachine.TestCase
TestConnection.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
