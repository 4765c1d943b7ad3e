"""The application's own traceback, without the frames that led to it."""

from __future__ import annotations

import os
import traceback
from typing import Final

_HERE: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MACHINERY: Final = ("<frozen importlib", "<frozen runpy", os.path.join("importlib", "__init__.py"))


def application_traceback(error: BaseException) -> str:
    """Format `error` with its causes; frames of this room and of the import system left out."""
    report = traceback.TracebackException.from_exception(error)
    _trim(report)
    return "".join(report.format()).rstrip("\n")


def happened_inside(error: BaseException) -> bool:
    """Tell whether any frame of the application took part in `error`."""
    return any(not _is_machinery(f.filename) for f in traceback.extract_tb(error.__traceback__))


def is_plain_refusal(error: AttributeError) -> bool:
    """Tell whether `error` says no more than that there is no such attribute.

    A module's or an object's own `__getattr__` may say it (PEP 562); an AttributeError from
    deeper inside is a fault of the code that was to make the attribute.
    """
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if not _is_machinery(frame.filename)]
    return not inside or inside[-1].name == "__getattr__"


def _is_machinery(filename: str) -> bool:
    return filename.startswith((_HERE, _MACHINERY[0], _MACHINERY[1])) or filename.endswith(
        _MACHINERY[2]
    )


def _trim(report: traceback.TracebackException) -> None:
    frames = [frame for frame in report.stack if not _is_machinery(frame.filename)]
    report.stack = traceback.StackSummary.from_list(frames)
    related = [report.__cause__, report.__context__, *(report.exceptions or ())]
    for other in related:
        if other is not None:
            _trim(other)
