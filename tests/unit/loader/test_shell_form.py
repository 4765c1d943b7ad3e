"""`--lode:app->app` without quotes, through the shells that people have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loader import Options, UsageError, parse, shell_form

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 30

# Says on standard error what was understood, then writes on standard output.
SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import loader
try:
    options = loader.parse(sys.argv[1:], {{}}, prog="smart-http")
except loader.UsageError as error:
    sys.exit(str(error))
for notice in options.notices:
    print("notice:", notice, file=sys.stderr)
print("target:", options.target, file=sys.stderr, flush=True)
print("said on standard output")
"""

Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["sh", "bash", "zsh"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """Run a command line in `tmp_path`; `RUN` stands for the script above."""
    path = shutil.which(request.param)
    if path is None:
        pytest.skip(f"{request.param} is not installed")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(line: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [path, "-c", line.replace("RUN", f"{sys.executable} script.py")],
            cwd=tmp_path,
            env={**os.environ, "ENV": "", "ZDOTDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        script.unlink()
        return done

    return run


def left_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.mark.parametrize(
    "line", ["RUN --lode:app->app", "RUN --lode app->app", "RUN --lode=app->app", "RUN app->app"]
)
def test_the_unquoted_form_is_understood(shell: Shell, tmp_path: Path, line: str) -> None:
    done = shell(line)
    assert "target: app:app\n" in done.stderr
    assert done.returncode == 0
    assert left_in(tmp_path) == []


def test_it_is_explained_in_one_line_with_the_quoted_form(shell: Shell) -> None:
    (notice,) = (x for x in shell("RUN --lode:app->app").stderr.splitlines() if "notice:" in x)
    for words in ("took '>app'", "serving app:app", "removed", "'--lode:app->app'"):
        assert words in notice


def test_standard_output_goes_to_standard_error_from_then_on(shell: Shell) -> None:
    done = shell("RUN --lode:app->app")
    assert "said on standard output" in done.stderr
    assert done.stdout == ""


def test_other_options_may_follow_and_precede(shell: Shell, tmp_path: Path) -> None:
    assert "target: app:app\n" in shell("RUN --port 0 --lode:app->app --max-workers 3").stderr
    assert left_in(tmp_path) == []


def test_dotted_names_come_through(shell: Shell, tmp_path: Path) -> None:
    done = shell("RUN --lode:pkg.mod->maker.app")
    assert "target: pkg.mod:maker.app\n" in done.stderr
    assert left_in(tmp_path) == []


def test_help_is_shown_to_the_user_and_not_to_the_file(shell: Shell, tmp_path: Path) -> None:
    done = shell("RUN --lode:app->app --help")
    assert "Usage: smart-http" in done.stderr
    assert left_in(tmp_path) == []


def test_a_file_that_holds_something_is_kept(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "app").write_text("precious\n")
    done = shell("RUN --lode:app->>app")
    assert "target: app:app\n" in done.stderr
    assert "left as it is" in done.stderr
    assert (tmp_path / "app").read_text() == "precious\n"


def test_quoted_it_needs_no_such_help(shell: Shell) -> None:
    done = shell("RUN '--lode:app->app'")
    assert (done.stdout, done.stderr) == ("said on standard output\n", "target: app:app\n")


def test_into_a_pipe_it_is_an_error_that_shows_the_quoted_form(
    shell: Shell, tmp_path: Path
) -> None:
    done = shell("RUN --lode:app- | cat")
    assert "'--lode:app->app'" in done.stderr
    assert "target:" not in done.stderr
    assert left_in(tmp_path) == []


def test_a_file_of_source_code_is_not_taken_for_a_callable(shell: Shell, tmp_path: Path) -> None:
    done = shell("RUN --lode:app->app.py")
    assert done.returncode == 1
    assert "cannot be a callable's" in done.stderr
    assert left_in(tmp_path) == ["app.py"]


Descriptors = Callable[[str], tuple[int, int, Path]]


@pytest.fixture
def descriptors(tmp_path: Path) -> Iterator[Descriptors]:
    """Open a file as standard output and another one as standard error."""
    opened: list[int] = []

    def make(name: str) -> tuple[int, int, Path]:
        path = tmp_path / name
        files = (path, tmp_path / "errors")
        opened.extend(os.open(each, os.O_WRONLY | os.O_CREAT, 0o600) for each in files)
        return opened[0], opened[1], path

    yield make
    for fd in opened:
        os.close(fd)


def test_only_the_file_that_is_open_is_removed(descriptors: Descriptors) -> None:
    stdout, stderr, path = descriptors("app")
    path.unlink()
    path.write_text("")  # another file by now, of the same name
    target, notice = shell_form.recover("app-", stdout_fd=stdout, stderr_fd=stderr)
    assert str(target) == "app:app"
    assert path.exists()
    assert "left as it is" in notice


def test_a_file_that_is_gone_already_is_no_harm(descriptors: Descriptors) -> None:
    stdout, stderr, path = descriptors("app")
    path.unlink()
    target, _ = shell_form.recover("app-", stdout_fd=stdout, stderr_fd=stderr)
    assert str(target) == "app:app"
    assert os.path.samestat(os.fstat(stdout), os.fstat(stderr))


def test_a_file_that_cannot_be_removed_stays_and_is_mentioned(
    descriptors: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(path)

    stdout, stderr, path = descriptors("app")
    monkeypatch.setattr("os.unlink", refuse)
    _, notice = shell_form.recover("app-", stdout_fd=stdout, stderr_fd=stderr)
    assert f"{path} is left as it is" in notice


def test_parse_serves_the_form_and_hands_on_the_notice(descriptors: Descriptors) -> None:
    stdout, stderr, path = descriptors("application")
    argv = ["--lode:pkg.mod-", "--port", "0"]
    options = parse(argv, {}, stdout_fd=stdout, stderr_fd=stderr)
    assert isinstance(options, Options)
    assert str(options.target) == "pkg.mod:application"
    assert "'--lode:pkg.mod->application'" in options.notices[0]
    assert not path.exists()
    assert "command line" in options.sources["lode"]


def test_standard_output_elsewhere_is_an_error_with_the_quoted_form() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(UsageError, match="'--lode:app->app'"):
            parse(["--lode:app-"], {}, stdout_fd=writer)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("name", ["out.log.1", "my-app", "class", "app.py"])
def test_a_name_that_is_no_callables_touches_nothing(descriptors: Descriptors, name: str) -> None:
    stdout, stderr, path = descriptors(name)
    with pytest.raises(UsageError, match="cannot be a callable's"):
        shell_form.recover("app-", stdout_fd=stdout, stderr_fd=stderr)
    assert path.exists()
    assert not os.path.samestat(os.fstat(stdout), os.fstat(stderr))


@pytest.mark.parametrize("text", ["app", "app->app", "-", "my-app-", "app.py:x-", "1-"])
def test_only_a_module_with_a_dash_behind_it_was_cut_off(text: str) -> None:
    assert not shell_form.is_cut_off(text)
