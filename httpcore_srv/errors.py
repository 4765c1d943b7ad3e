"""What can go wrong in this room, sorted by whose fault it is.

An error knows its status; the one function that turns an error into a response
needs no ladder of `isinstance`.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer broke the rules (or asked for more than a limit allows).

    status: the HTTP status code that says so to the peer.
    message: one line for the log. It never quotes field values: these may be
        secrets, and whoever sent them could forge log lines.
    retry_after_s: when it may be worth to try again; 0: that is not said.

    After it the framing of the connection cannot be trusted any more: the only
    legal act is one error response, then close (RFC 9112 section 9.6).
    """

    def __init__(self, status: int, message: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"


class PeerGone(Exception):
    """The stream ended or was reset before its message was complete.

    Nobody is left to answer: log at debug level and clean up.
    """


class BodyLost(OSError):
    """The rest of a request's body will not come: its client is gone, or too slow.

    Raised out of `wsgi.input`, and an OSError because frameworks expect one there. The
    application may answer all the same; if it lets it pass, it is no failure of its own.

    late: the client is there still, and can be told that it was too slow (408).
    """

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late

    def again(self) -> BodyLost:
        """Return the same for another raise, without the first one's traceback."""
        return BodyLost(str(self), late=self.late)


class AppError(Exception):
    """The application raised, or broke PEP 3333.

    It becomes a 500 if no head went out yet, else the connection is cut, since
    a truncated body is the only way left to tell the client.
    """

    status = 500


class BindError(Exception):
    """An address cannot be listened on, or a log not be written: the user's to mend.

    One line for the user, and exit status 2.
    """

    exit_status = 2
