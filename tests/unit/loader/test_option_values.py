from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from loader import UsageError, values


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (values.count(1, 8), "8", 8),
        (values.count(1, 8), "01", 1),
        (values.seconds(0.1, 60), "0.5", 0.5),
        (values.seconds(0.1, 60), ".5", 0.5),
        (values.seconds(0.1, 60), "60", 60.0),
        (values.seconds(0.1, 60, zero="off"), "0", 0.0),
        (values.size(1, 1 << 40), "1", 1),
        (values.size(1, 1 << 40), "64k", 65536),
        (values.size(1, 1 << 40), "64K", 65536),
        (values.size(1, 1 << 40), "2MiB", 2 << 20),
        (values.size(1, 1 << 40), "3 gb", 3 << 30),
        (values.size(1, 1 << 40), "7b", 7),
        (values.size(1, 1 << 40, zero="none"), "0", 0),
        (values.switch, "1", True),
        (values.switch, "Yes", True),
        (values.switch, "off", False),
        (values.switch_off, "true", False),
        (values.switch_off, "no", True),
        (values.choice({"drop": 1, "refuse": None}), "drop", 1),
        (values.choice({"drop": 1, "refuse": None}), "Refuse", None),
        (values.log_level, "DEBUG", "debug"),
        (values.directory, "/tmp", "/tmp"),
        (values.writable_directory, "/tmp/", "/tmp"),
        (values.output_file_or_stderr, "-", "-"),
    ],
)
def test_a_good_value_is_read(read: Callable[[str], object], text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (values.count(1, 8), "0", "out of range; give 1 to 8"),
        (values.count(1, 8), "9", "out of range; give 1 to 8"),
        (values.count(1, 8), "-1", "not a whole number"),
        (values.count(1, 8), "two", "not a whole number"),
        (values.count(1, 8), "1.0", "not a whole number"),
        (values.count(1, 8), "1_0", "not a whole number"),
        (values.count(1, 8), "٣", "not a whole number"),
        (values.count(1, 8), "", "not a whole number"),
        (values.count(1, 8), "9" * 5000, "not a whole number"),
        (values.seconds(0.1, 60), "0", "out of range; give seconds, 0.1 to 60"),
        (values.seconds(0.1, 60, zero="off"), "61", "0.1 to 60, or 0 (off)"),
        (values.seconds(0.1, 60), "30s", "not a number of seconds; give 0.1 to 60, without a unit"),
        (values.seconds(0.1, 60), "nan", "not a number of seconds"),
        (values.seconds(0.1, 60), "inf", "not a number of seconds"),
        (values.seconds(0.1, 60), "1e1", "not a number of seconds"),
        (values.seconds(0.1, 60), "-1", "not a number of seconds"),
        (values.size(256, 1 << 20), "1", "out of range; give 256 to 1m"),
        (values.size(256, 1 << 20, zero="none"), "2m", "256 to 1m, or 0 (none)"),
        (values.size(256, 1 << 20), "1t", "not a size"),
        (values.size(256, 1 << 20), "1.5m", "not a size"),
        (values.size(256, 1 << 20), "9" * 5000, "not a size"),
        (values.switch, "maybe", "neither yes nor no"),
        (values.log_level, "loud", "give one of debug, info, warning, error, critical"),
        (values.directory, "/no/such/place", "there is no directory /no/such/place"),
        (values.directory, "/dev/null", "/dev/null is a file; give a directory"),
        (values.writable_directory, "/dev/null", "/dev/null is a file; give a directory"),
        (values.writable_directory, "/no/such/place", "there is no directory /no/such/place"),
        (values.choice({"drop": 1, "refuse": 2}), "keep", "no such choice; give drop or refuse"),
        (values.choice({"drop": 1, "refuse": 2}), "", "no such choice; give drop or refuse"),
        (values.directory, "--port", "a file name was expected here (write ./--port"),
        (values.output_file, "/", "/ is a directory; give the name of a file"),
        (values.output_file, "/no/such/place/x", "no directory /no/such/place; make it first"),
        (values.output_file, "a\0b", "NUL"),
    ],
)
def test_a_bad_value_is_answered_with_the_remedy(
    read: Callable[[str], object], text: str, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert words in str(caught.value)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert values.output_file("access.log") == f"{tmp_path}/access.log"
    assert values.directory(".") == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert values.output_file("~/x") == f"{tmp_path}/x"


@pytest.mark.parametrize("missing", [os.W_OK, os.X_OK])
def test_a_directory_in_which_no_file_can_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    # Root may write everywhere, so the system is asked in its stead.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & missing)
    with pytest.raises(UsageError, match="cannot be written to; give another, or change its"):
        values.writable_directory(str(tmp_path))


def test_a_current_directory_that_is_gone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for read in (values.directory, values.output_file):
        with pytest.raises(UsageError, match="the current directory does not exist any more"):
            read(".")
    assert values.directory("/") == "/"


@pytest.mark.parametrize("text", ["0", "1", "1023", "1k", "1025", "64k", "1m", "1g", "1536m"])
def test_a_size_is_shown_as_it_would_be_typed(text: str) -> None:
    assert values.show_size(values.size(0, 1 << 50)(text)) == text
