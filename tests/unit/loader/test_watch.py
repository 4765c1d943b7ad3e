"""Which files count as the application's source, and how they are told."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from loader import Options, UsageError, parse, watcher
from loader.watch import Sources, directories_elsewhere, watch

BOUND_S = 30.0
SOURCES = Sources(("/site", "/other/lib"), ("*.html", "conf/*.toml"))


def options(*argv: str) -> Options:
    found = parse(argv, {})
    assert isinstance(found, Options)
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/site/app.py",
        "/site/shop/db/models.py",
        "/other/lib/tool.py",
        "/site/templates/page.html",
        "/site/conf/production.toml",
        "/site/env/app.py",
    ],
)
def test_sources_and_what_is_named_count(path: str) -> None:
    assert SOURCES.counts(path)


@pytest.mark.parametrize(
    "path",
    [
        "/site/app.pyc",
        "/site/style.css",
        "/site/production.toml",
        "/site/.venv/lib/app.py",
        "/site/.git/hook.py",
        "/site/shop/__pycache__/app.py",
        "/site/node_modules/gyp/gyp.py",
        "/site/results/plot.py",
        "/site/venv/lib/python3.11/site-packages/flask/app.py",
        "/site/.#app.py",
        "/site/shop/.app.py.swp",
    ],
)
def test_what_is_not_the_applications_does_not(path: str) -> None:
    assert not SOURCES.counts(path)


def test_a_directory_that_lies_in_an_ignored_one_is_watched_all_the_same() -> None:
    assert Sources(("/home/me/.cache/results/site",)).counts("/home/me/.cache/results/site/app.py")


def test_names_are_told_as_seen_from_their_directory() -> None:
    assert SOURCES.in_words(["/site/app.py"]) == "app.py"
    assert SOURCES.in_words(["/other/lib/tool.py", "/site/a/b.py"]) == "a/b.py, tool.py"


def test_many_names_are_counted() -> None:
    paths = [f"/site/m{number}.py" for number in range(7)]
    assert SOURCES.in_words(paths) == "m0.py, m1.py, m2.py and 4 more"


def test_modules_are_found_elsewhere_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, lib = tmp_path / "site", tmp_path / "lib"
    installed = tmp_path / "venv" / "site-packages"
    for place, name in ((site, "here"), (lib / "there", "__init__"), (installed, "bought")):
        place.mkdir(parents=True)
        (place / f"{name}.py").write_text("raise AssertionError('imported')")
    monkeypatch.setattr("sys.path", [*sys.path, str(lib), str(installed)])
    modules = ["here", "there.web", "there.db", "bought", "missing", "sys"]
    assert directories_elsewhere(str(site), modules) == [str(lib / "there")]


def test_without_the_option_nothing_is_watched() -> None:
    assert watcher(options("app:app")) is None


def test_with_it_the_application_and_its_hooks_are(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    arguments = ("--reload", "--reload-include", "*.html", "--after-fork", "db:connect")
    found = watcher(options("shop.web:app", *arguments, "--chdir", str(tmp_path)))
    assert found is not None
    assert found.args == (str(tmp_path), ("shop.web", "db"), ("*.html",))  # type: ignore[attr-defined]


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        options("app:app", "--reload")
    assert caught.value.message == (
        "--reload needs the package watchfiles: pip install watchfiles"
        " (or install this server with its extra `reload`)"
    )


def test_patterns_without_reload_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        options("app:app", "--reload-include", "*.html")
    assert caught.value.message == "--reload-include '*.html' does nothing without --reload"


def test_patterns_are_gathered_from_command_line_and_environment() -> None:
    pytest.importorskip("watchfiles")
    typed = options("app:app", "--reload", "--reload-include", "*.html", "--reload-include", "./x")
    assert typed.reload_includes == ("*.html", "x")
    environ = {"SMART_HTTP_RELOAD": "1", "SMART_HTTP_RELOAD_INCLUDE": "*.html, x/*.css,"}
    found = parse(["app:app"], environ)
    assert isinstance(found, Options)
    assert found.reload_includes == ("*.html", "x/*.css")


def test_a_change_is_told(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    told: list[str] = []
    heard = threading.Event()

    class Enough(Exception):
        """Ends the watching, which has no end of its own."""

    def tell(what: str) -> None:
        told.append(what)
        heard.set()
        raise Enough

    def run() -> None:
        with pytest.raises(Enough):
            watch(str(tmp_path), (), (), tell)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for number in range(int(BOUND_S * 5)):  # until the watch is set up
            (tmp_path / "app.py").write_text(f"version = {number}")
            if heard.wait(0.2):
                break
    finally:
        thread.join(BOUND_S)
    assert told == ["app.py"]
