"""Connection: the states of one keep-alive connection. No socket, no clock.

    AWAITING_HEAD --bytes--> RECEIVING_HEAD --head with body--> RECEIVING_BODY
         ^    \\                    |                                 |
         |     `-- whole request in one piece (the usual case) --.   | end of body
         |                                                       v   v
         `------------------ DONE_KEEP ----------------------- RESPONDING
                                                                 |
    any state --FAULT (a ProtocolError)--> CLOSING <--DONE_CLOSE-'

A request is handed out when it is here whole, so that no thread of the application
waits for a client; or, if its owner wants that, without the rest of a body that is too
large for memory (`hand_out`), which the application then takes out of the socket. What
of the next request has been received already stays in the parser until this one's
response is done: answers keep their order, and a client that pipelines without end is
stopped by the socket's buffer.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Mapping
from typing import IO, Final, Protocol

from httpcore_srv.errors import ProtocolError
from httpcore_srv.messages import END_OF_MESSAGE, NEED_DATA, Message, RequestHead, Signal
from httpcore_srv.request_parser import HTTPRequest
from httpcore_srv.settings import HTTPLimits


class State(enum.IntEnum):
    """Where a connection stands."""

    AWAITING_HEAD = 0
    RECEIVING_HEAD = 1
    RECEIVING_BODY = 2
    RESPONDING = 3
    CLOSING = 4


class Event(enum.IntEnum):
    """What moves a connection from one state to the next."""

    PART_OF_HEAD = 0
    HEAD_WITH_BODY = 1
    REQUEST = 2  # a whole request is here
    DONE_KEEP = 3
    DONE_CLOSE = 4
    FAULT = 5


NEXT: Final[Mapping[State, Mapping[Event, State]]] = {
    State.AWAITING_HEAD: {
        Event.PART_OF_HEAD: State.RECEIVING_HEAD,
        Event.HEAD_WITH_BODY: State.RECEIVING_BODY,
        Event.REQUEST: State.RESPONDING,
        Event.FAULT: State.CLOSING,
    },
    State.RECEIVING_HEAD: {
        Event.PART_OF_HEAD: State.RECEIVING_HEAD,
        Event.HEAD_WITH_BODY: State.RECEIVING_BODY,
        Event.REQUEST: State.RESPONDING,
        Event.FAULT: State.CLOSING,
    },
    State.RECEIVING_BODY: {
        Event.REQUEST: State.RESPONDING,
        Event.FAULT: State.CLOSING,
    },
    State.RESPONDING: {
        Event.DONE_KEEP: State.AWAITING_HEAD,
        Event.DONE_CLOSE: State.CLOSING,
        Event.FAULT: State.CLOSING,
    },
    State.CLOSING: {},
}
"""A missing entry is a bug of ours: the KeyError is let be seen."""

# The same for the hot path: the hash of an enum's member is a Python call, its index is
# not; and reading a member off its class costs a search in the metaclass each time.
_TABLE: Final = tuple(tuple(NEXT[state].get(event) for state in State) for event in Event)
_ON_REQUEST: Final = _TABLE[Event.REQUEST]
AWAITING_HEAD: Final = State.AWAITING_HEAD
RECEIVING_HEAD: Final = State.RECEIVING_HEAD
RESPONDING: Final = State.RESPONDING
CLOSING: Final = State.CLOSING
PART_OF_HEAD: Final = Event.PART_OF_HEAD
HEAD_WITH_BODY: Final = Event.HEAD_WITH_BODY
REQUEST: Final = Event.REQUEST
DONE_CLOSE: Final = Event.DONE_CLOSE
FAULT: Final = Event.FAULT


def close_body(body: IO[bytes] | io.IOBase) -> None:
    """Close a body's file now, and not when the garbage collector comes by."""
    try:
        body.close()
    except (OSError, ValueError, BufferError):
        # close() flushes, and the disk is full: what could not be written is not wanted
        # any more, and the descriptor is closed all the same. Or the application has
        # detached the body, or keeps a view of it: then it goes when that goes.
        return


class Store(Protocol):
    """The memory that all connections of a worker share, and files for the rest."""

    def take(self, size: int) -> bool:
        """Reserve memory; False if that would be more than there is."""

    def give(self, size: int) -> None:
        """Return what was taken."""

    def open_file(self) -> IO[bytes]:
        """Make a temporary file. Raises: OSError."""

    def full(self) -> ProtocolError:
        """Return what to tell a client whose request has no room in memory."""

    def failed(self, what: str, error: OSError) -> ProtocolError:
        """Log that a file could not be made or written; return what to tell the client."""


class Connection:
    """One client's requests, one after the other.

    limits: what a client may send.
    store: where a body waits until it is whole, and requests until there is a thread.
    live: its owner looks at `may_go_live` whenever no whole request has come.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_head",
        "_held",
        "_limits",
        "_live",
        "_parser",
        "_store",
        "body_left",
        "body_length",
        "has_unread",
        "head_just_began",
        "state",
        "wants_continue",
    )

    def __init__(self, limits: HTTPLimits, store: Store, *, live: bool = False) -> None:
        self.state = AWAITING_HEAD
        self.wants_continue = False  # the client waits for a 100 before it sends its body
        # Something has been received beyond the request handed out last.
        self.has_unread = False
        self.head_just_began = False  # the bytes received last were the first of a head
        self.body_length = 0  # of the request handed out last
        self.body_left = 0  # how much of that was still to come
        self._live = live
        self._limits = limits
        self._store = store
        self._held = 0  # bytes of memory reserved for what waits here
        self._parser = HTTPRequest(limits)
        self._head: RequestHead | None = None  # whose body is being received
        self._body_bytes = 0
        self._body: IO[bytes] | None = None  # of the request being received or handed out

    @property
    def at_rest(self) -> bool:
        """Between requests: nothing of another request has been received."""
        return self.state is AWAITING_HEAD

    def receive(self, data: bytes) -> RequestHead | None:
        """Take in what has come; return the next request if it is here whole.

        Raises: ProtocolError; the connection is CLOSING then and one error
            response is the only thing that may follow.
        """
        parser = self._parser
        if self._head is None:
            try:
                message = parser.receive(data)
            except ProtocolError:
                self.fault()
                raise
            if type(message) is RequestHead and not message.has_body and not self._held:
                # What nearly all requests are; as _take_message does it.
                self.has_unread = bool(parser.buffer)
                self.body_length = 0
                state = _ON_REQUEST[self.state]
                if state is None:
                    raise KeyError(self.state)
                self.state = state
                return message
            return self._take_message(message)
        parser.receive_data(data)
        return self.next_request()

    def next_request(self) -> RequestHead | None:
        """Return the next whole request out of what has been received, or None.

        Raises: as `receive`.
        """
        if self._head is not None:
            return self._receive_body(self._head)
        try:
            message = self._parser.next_message()
        except ProtocolError:
            self.fault()
            raise
        return self._take_message(message)

    def _take_message(self, message: Message) -> RequestHead | None:
        """Go on after what the parser has said between two requests. Raises: as `receive`."""
        parser = self._parser
        if message is NEED_DATA:
            self.has_unread = parser.in_head
            self.head_just_began = self.has_unread and self.state is AWAITING_HEAD
            if self.has_unread:
                self._hold_or_fail()
                self._move(PART_OF_HEAD)
            return None
        assert isinstance(message, RequestHead)
        self.release()
        if not message.has_body:
            self.body_length = 0
            self.has_unread = bool(parser.buffer)
            self._move(REQUEST)
            return message
        body = parser.take_whole_body(self._limits.body_memory_bytes)
        if body is not None:
            self._body = io.BytesIO(body)  # shares the bytes
            self._body.seek(0, io.SEEK_END)  # see `hold`
            self.body_length = len(body)
            self.has_unread = bool(parser.buffer)
            self._move(REQUEST)
            return message
        self._head = message
        self.has_unread = True
        self.wants_continue = message.fields.expects_continue
        self._move(HEAD_WITH_BODY)
        return self._receive_body(message)

    @property
    def may_go_live(self) -> bool:
        """Whether the request being received may be handed out before its body is whole.

        Once in a large body: when as much has come as may stay in memory. Not in a chunked
        one: PEP 3333 wants its length in the environ.
        """
        head = self._head
        if head is None or not self._live or not isinstance(self._body, io.BytesIO):
            return False
        length = head.fields.content_length or 0
        return self._limits.body_memory_bytes <= self._body_bytes < length

    def hand_out(self) -> RequestHead:
        """Return the request whose body `may_go_live`; `body_left` of it are still to come.

        The parser will not see them. Until `body_came` the connection cannot be kept.
        """
        head, self._head = self._head, None
        assert head is not None
        assert head.fields.content_length is not None
        self.body_length = head.fields.content_length
        self.body_left, self._body_bytes = self.body_length - self._body_bytes, 0
        self._parser.leave_body()
        self.has_unread = True
        self._move(REQUEST)
        return head

    def body_came(self) -> None:
        """The rest of the body of the request handed out has been taken out of the socket."""
        self.body_left = 0
        self.has_unread = False

    @property
    def received_bytes(self) -> int:
        """How much of the body has come that is being received."""
        return self._body_bytes

    def hold(self) -> None:
        """Account for the memory of what has to wait here, for more bytes or for a thread.

        Raises: ProtocolError (503) if there is no room for it.
        """
        while True:
            size = self._parser.unparsed_bytes
            body = self._body
            if isinstance(body, io.BytesIO):
                size += body.tell()  # it stands at its end until it is taken
            growth = size - self._held
            if growth <= 0 or self._store.take(growth):
                break
            if not isinstance(body, io.BytesIO):
                raise self._store.full()
            try:
                self._spool(body)
            except OSError as error:
                raise self._store.failed("a request body", error) from None
        if growth < 0:
            self._store.give(-growth)
        self._held = size

    def release(self) -> None:
        """It need not wait any longer. Whatever the memory is used for, it is soon free."""
        if self._held:
            self._store.give(self._held)
            self._held = 0

    def take_body(self) -> IO[bytes]:
        """Return the content of the request handed out last, at its beginning. Once."""
        self.release()
        body, self._body = self._body, None
        if body is None:
            return io.BytesIO()
        body.seek(0)
        return body

    def done_and_kept(self) -> None:
        """The response is on its way: expect another request."""
        if self.state is not RESPONDING:
            raise KeyError(self.state)
        self.state = AWAITING_HEAD  # as NEXT says

    def done_and_closed(self) -> None:
        """The response is on its way, and was the last."""
        self._move(DONE_CLOSE)
        self._drop_body()

    def fault(self) -> None:
        """The connection is at its end for a reason of its owner's (a timeout, a limit)."""
        self._move(FAULT)
        self._drop_body()

    @property
    def unparsed_bytes(self) -> int:
        """How much `unparsed` would return."""
        return self._parser.unparsed_bytes

    def unparsed(self) -> bytes:
        """Return what has been received and not been used, to give it to another process.

        Only before a request has been handed out of it: AWAITING_HEAD or RECEIVING_HEAD.
        """
        return self._parser.unparsed()

    def _hold_or_fail(self) -> None:
        try:
            self.hold()
        except ProtocolError:
            self.fault()
            raise

    def _receive_body(self, head: RequestHead) -> RequestHead | None:
        try:
            return self._take_body_in(head)
        except ProtocolError:
            self.fault()
            raise
        except OSError as error:
            self.fault()
            raise self._store.failed("a request body", error) from None

    def _take_body_in(self, head: RequestHead) -> RequestHead | None:
        while True:
            message = self._parser.next_message()
            if isinstance(message, bytes):
                self.wants_continue = False  # it did not wait
                self._keep(message)
                continue
            assert isinstance(message, Signal)
            if message is not END_OF_MESSAGE:
                self.hold()
                return None
            self._head = None
            self.wants_continue = False
            if self._body is not None:
                self._body.flush()  # here, where a full disk can still be answered
            self.body_length, self._body_bytes = self._body_bytes, 0
            self.has_unread = not self._parser.at_boundary
            self._move(REQUEST)
            return head

    def _keep(self, piece: bytes) -> None:
        self._body_bytes += len(piece)
        body = self._body
        if body is None:
            # Not a list of pieces: a client that sends two bytes at a time would make us
            # hold an object for each.
            body = self._body = io.BytesIO(piece)  # shares the bytes as long as they are all
            body.seek(0, io.SEEK_END)
        else:
            body.write(piece)
        limit = self._limits.body_memory_bytes
        if self._body_bytes > limit and isinstance(body, io.BytesIO):
            # The piece that filled the memory gives the owner the chance to hand it out.
            if self._body_bytes - len(piece) < limit and self.may_go_live:
                return
            self._spool(body)

    def _spool(self, body: io.BytesIO) -> None:
        """Move the body on from memory to a file. Raises: OSError."""
        self._body = file = self._store.open_file()
        with body.getbuffer() as content:
            file.write(content)
        file.flush()  # as above

    def _drop_body(self) -> None:
        self.release()
        body, self._body = self._body, None
        if body is not None:
            close_body(body)

    def _move(self, event: Event) -> None:
        state = _TABLE[event][self.state]
        if state is None:
            raise KeyError(self.state)
        self.state = state
