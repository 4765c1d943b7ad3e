"""Hooks as objects: what is called, and what becomes of what it raises."""

from __future__ import annotations

import logging
import sys

import pytest

from loader import HookError, Hooks, UsageError
from loader.callables import problem_with_hook
from loader.hooks import Hook
from loader.target import Target, parse_hook


def broken() -> None:
    raise LookupError("away")


def ends() -> None:
    sys.exit("enough")


def test_without_hooks_nothing_is_called() -> None:
    hooks = Hooks()
    hooks.begin()
    hooks.end()


def test_each_is_called_at_its_time() -> None:
    called: list[str] = []
    hooks = Hooks(
        Hook("--after-fork x:a", lambda: called.append("begin")),
        Hook("--before-exit x:b", lambda: called.append("end")),
    )
    hooks.begin()
    assert called == ["begin"]
    hooks.end()
    assert called == ["begin", "end"]


@pytest.mark.parametrize(("function", "kind"), [(broken, "LookupError"), (ends, "SystemExit")])
def test_a_failing_after_fork_says_which_and_where(function: object, kind: str) -> None:
    with pytest.raises(HookError) as caught:
        Hooks(after_fork=Hook("--after-fork x:a", function)).begin()  # type: ignore[arg-type]
    first, *rest = str(caught.value).splitlines()
    assert first == f"--after-fork x:a raised {kind}"
    assert f"in {function.__name__}" in "\n".join(rest)  # type: ignore[attr-defined]
    assert "hooks.py" not in str(caught.value).replace("test_hooks.py", "")
    assert caught.value.exit_status is None


def test_a_failing_before_exit_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR, "smart_http")
    monkeypatch.setattr(logging.getLogger("smart_http"), "propagate", True)
    Hooks(before_exit=Hook("--before-exit x:b", broken)).end()
    (record,) = caplog.records
    assert record.getMessage().startswith("--before-exit x:b raised LookupError\n")
    assert record.getMessage().endswith("LookupError: away")


class Pool:
    """Something with methods."""

    def open(self) -> None:
        """Be a hook."""

    def __call__(self, size: int = 4) -> None:
        """Be a hook, too: it can be called without arguments."""


@pytest.mark.parametrize("found", [broken, Pool().open, Pool(), Pool, lambda *args: None, print])
def test_what_can_be_called_without_arguments_is_a_hook(found: object) -> None:
    assert problem_with_hook(found) is None


@pytest.mark.parametrize("found", [None, "text", Pool.open, lambda x: None])
def test_what_cannot_is_none(found: object) -> None:
    assert problem_with_hook(found)


def test_a_hook_is_named_like_an_application() -> None:
    assert parse_hook("shop.db:pool.open") == Target("shop.db", ("pool", "open"))
    assert parse_hook("shop.db->connect") == Target("shop.db", ("connect",))


def test_a_hook_with_parentheses_is_refused() -> None:
    with pytest.raises(UsageError, match=r"write shop\.db:connect, without parentheses"):
        parse_hook("shop.db:connect()")
