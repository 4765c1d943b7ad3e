from __future__ import annotations

import logging
import os
import pty
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from loader import logs

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d \[(\d+)\] (\w+): (.*)")


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    logger = logging.getLogger(logs.LOGGER)
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture
def error_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "stderr", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    yield fd
    os.close(fd)


def lines(fd: int) -> list[str]:
    return os.pread(fd, 1 << 16, 0).decode().splitlines()


def test_a_line_has_time_process_level_and_message(error_fd: int) -> None:
    logs.configure("info", fd=error_fd)
    logging.getLogger("smart_http.worker").warning("slot %d is %s", 3, "late")
    (line,) = lines(error_fd)
    found = LINE.fullmatch(line)
    assert found is not None
    assert found.groups() == (str(os.getpid()), "warning", "slot 3 is late")


def test_what_is_below_the_level_is_not_said(error_fd: int) -> None:
    logs.configure("warning", fd=error_fd)
    log = logging.getLogger("smart_http.manager")
    log.info("quiet")
    log.error("loud")
    assert [line.rsplit(" ", 1)[1] for line in lines(error_fd)] == ["loud"]


def test_a_traceback_follows_its_message(error_fd: int) -> None:
    logs.configure(fd=error_fd)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("smart_http").exception("what")
    text = lines(error_fd)
    assert text[0].endswith("error: what")
    assert text[1].startswith("Traceback")
    assert text[-1] == "ValueError: why"


def test_a_record_is_one_write(error_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = os.write
    monkeypatch.setattr("os.write", lambda fd, line: written.append(line) or write(fd, line))
    logs.configure(fd=error_fd)
    logging.getLogger("smart_http").info("one\ntwo")
    assert len(written) == 1
    assert written[0].endswith(b"one\ntwo\n")


FORGED = "2026-01-01T00:00:00.000+00:00 [1] info: nothing happened"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a\tb", "a\tb"),
        ("a\nb", "a\nb"),
        ("a\r\nb", "a\\r\nb"),
        ("\x1b[2J\x00\x7f", "\\x1b[2J\\x00\\x7f"),
        ("\x85\x9b", "\\x85\\x9b"),
        ("caf\xe9 \u2014 \U0001f600", "caf\xe9 \u2014 \U0001f600"),
        (f"a\n{FORGED}", f"a\n  {FORGED}"),
        (f"a\n\n\n{FORGED}\n{FORGED}", f"a\n\n\n  {FORGED}\n  {FORGED}"),
        (f"a\r\n{FORGED}", f"a\\r\n  {FORGED}"),
    ],
)
@pytest.mark.parametrize("in_exception", [False, True])
def test_nothing_that_is_logged_can_pretend_to_be_a_record_or_move_the_cursor(
    error_fd: int, message: str, shown: str, in_exception: bool
) -> None:
    logs.configure(fd=error_fd)
    log = logging.getLogger("smart_http.app")
    if in_exception:
        log.error("failed", exc_info=ValueError(message))
    else:
        log.error("%s", message)
    text = os.pread(error_fd, 1 << 16, 0).decode()
    assert text.endswith(f": {shown}\n")
    assert [number for number, line in enumerate(text.split("\n")) if LINE.fullmatch(line)] == [0]


def test_a_write_that_stops_half_way_is_continued(
    error_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr("os.write", lambda fd, line: write(fd, line[:7]))
    logs.configure(fd=error_fd)
    logging.getLogger("smart_http").info("all of it is there")
    assert lines(error_fd)[0].endswith("all of it is there")


def test_a_reader_that_is_gone_stops_nobody() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    logs.configure(fd=writer)
    logging.getLogger("smart_http").info("nobody listens")
    os.close(writer)


def test_text_that_is_no_utf_8_is_written_escaped(error_fd: int) -> None:
    logs.configure(fd=error_fd)
    logging.getLogger("smart_http").info("path \udcff")
    assert lines(error_fd)[0].endswith("path \\udcff")


def test_the_root_logger_stays_the_applications(
    error_fd: int, caplog: pytest.LogCaptureFixture
) -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    logs.configure(fd=error_fd)
    logging.getLogger("smart_http").error("ours")
    assert (root.level, root.handlers[:]) == before
    assert not caplog.records


def test_setting_up_anew_replaces_the_old_set_up(error_fd: int) -> None:
    logs.configure("debug", fd=error_fd)
    logs.configure("error", fd=error_fd)
    logging.getLogger("smart_http").warning("quiet")
    logging.getLogger("smart_http").error("once")
    assert len(lines(error_fd)) == 1


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb", "NO_COLOR": ""}, False),
    ],
)
def test_only_a_terminal_that_wants_it_gets_colour(
    environ: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    master, terminal = pty.openpty()
    try:
        logs.configure(fd=terminal)
        logging.getLogger("smart_http").error("red")
        assert (b"\x1b[31merror\x1b[0m" in os.read(master, 4096)) is coloured
    finally:
        os.close(master)
        os.close(terminal)
