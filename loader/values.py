"""Readers of option values: text in, checked value out, UsageError with the remedy.

Every reader has the one shape `str -> value`, so that the command line, the environment and
the defaults go through the same check and the messages read alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from .errors import UsageError

Value = TypeVar("Value")

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")
_SIZE = re.compile(r"([0-9]+)\s*(?:([kmg])(?:i?b)?|b)?", re.IGNORECASE)
_UNITS: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})


def count(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        # int() would take '1_000', ' 7' and '٣'; whoever typed that meant something else.
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise UsageError(f"not a whole number; give {low} to {high}")
        if not low <= int(text) <= high:
            raise UsageError(f"out of range; give {low} to {high}")
        return int(text)

    return read


def seconds(low_s: float, high_s: float, *, zero: str = "") -> Callable[[str], float]:
    """Return a reader of seconds from `low_s` to `high_s`.

    zero: what 0 means, if 0 is allowed although it is below `low_s`.
    """
    span = f"{low_s:g} to {high_s:.12g}" + (f", or 0 ({zero})" if zero else "")

    def read(text: str) -> float:
        if not _NUMBER.fullmatch(text):
            raise UsageError(f"not a number of seconds; give {span}, without a unit")
        value_s = float(text)
        if not (low_s <= value_s <= high_s or (zero and value_s == 0)):
            raise UsageError(f"out of range; give seconds, {span}")
        return value_s

    return read


def size(low_bytes: int, high_bytes: int, *, zero: str = "") -> Callable[[str], int]:
    """Return a reader of sizes, in bytes or with a suffix k, m or g (powers of 1024).

    zero: what 0 means, if 0 is allowed although it is below `low_bytes`.
    """
    span = f"{show_size(low_bytes)} to {show_size(high_bytes)}"
    span += f", or 0 ({zero})" if zero else ""

    def read(text: str) -> int:
        found = _SIZE.fullmatch(text)
        if not found or len(found[1]) > 18:
            raise UsageError("not a size; give bytes, or a number with k, m or g, such as 64k")
        value = int(found[1]) * _UNITS.get((found[2] or "").lower(), 1)
        if not (low_bytes <= value <= high_bytes or (zero and value == 0)):
            raise UsageError(f"out of range; give {span}")
        return value

    return read


def show_size(size_bytes: int) -> str:
    """Return a size as short as it can be typed: 1073741824 is `1g`."""
    for suffix in ("g", "m", "k"):
        if size_bytes and size_bytes % _UNITS[suffix] == 0:
            return f"{size_bytes // _UNITS[suffix]}{suffix}"
    return str(size_bytes)


def switch(text: str) -> bool:
    """Read a yes or no (an environment variable's; on the command line a switch has no value)."""
    word = text.lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise UsageError("neither yes nor no; give 1 or 0")


def switch_off(text: str) -> bool:
    """Read a yes or no to `--no-something` and return the something."""
    return not switch(text)


def choice(meanings: Mapping[str, Value]) -> Callable[[str], Value]:
    """Return a reader of one word out of a few."""

    def read(text: str) -> Value:
        try:
            return meanings[text.lower()]
        except KeyError:
            raise UsageError(f"no such choice; give {' or '.join(meanings)}") from None

    return read


def glob(text: str) -> str:
    """Read a pattern for names of files."""
    if text.startswith("-"):
        raise UsageError(f"a pattern was expected here (write ./{text} if that is one)")
    return text.removeprefix("./")


def globs(text: str) -> tuple[str, ...]:
    """Read patterns separated by commas."""
    return tuple(glob(each.strip()) for each in text.split(",") if each.strip())


def log_level(text: str) -> str:
    """Read the name of a log level, in any case."""
    level = text.lower()
    if level not in LOG_LEVELS:
        raise UsageError(f"no such level; give one of {', '.join(LOG_LEVELS)}")
    return level


def directory(text: str) -> str:
    """Read the name of a directory that exists; return it absolute."""
    path = _path(text)
    if not os.path.exists(path):
        raise UsageError(f"there is no directory {path}")
    if not os.path.isdir(path):
        raise UsageError(f"{path} is a file; give a directory")
    return path


def writable_directory(text: str) -> str:
    """Read the name of a directory in which files can be made; return it absolute."""
    path = directory(text)
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written to; give another, or change its permissions")
    return path


def output_file(text: str) -> str:
    """Read the name of a file to be written; return it absolute.

    Absolute, because the application's process may change its directory.
    """
    path = _path(text)
    if os.path.isdir(path):
        raise UsageError(f"{path} is a directory; give the name of a file")
    if not os.path.isdir(os.path.dirname(path)):
        raise UsageError(f"there is no directory {os.path.dirname(path)}; make it first")
    return path


def output_file_or_stderr(text: str) -> str:
    """Read the name of a file to be written, or `-` for standard error."""
    return text if text == "-" else output_file(text)


def _path(text: str) -> str:
    if text.startswith("-"):
        # More likely the next option, taken for the value that was forgotten.
        raise UsageError(f"a file name was expected here (write ./{text} if that is its name)")
    if "\0" in text:
        raise UsageError("a file name cannot contain NUL")
    return absolute(os.path.expanduser(text))


def absolute(path: str) -> str:
    """Return `path` as seen from the directory where the command was typed."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise UsageError("the current directory does not exist any more; go to another") from None
