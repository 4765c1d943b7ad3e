"""Looking at an object: could it be a WSGI application, and if not, what is it?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

_REQUIRED: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def problem_with(found: object) -> str | None:
    """Return why `found` cannot be a WSGI application, or None if it can.

    `{target}` in the text stands for the target as it was typed. Only what is certain counts: an
    object that cannot be looked at is believed.
    """
    if not callable(found):
        return f"it is of type {type(found).__name__}, not a callable"
    try:
        return _problem_with_arguments(found)
    except Exception:  # noqa: BLE001 - a proxy may run any code, and may have nothing behind it yet
        return None


def _problem_with_arguments(found: Callable[..., object]) -> str | None:
    if _is_async(found):
        return (
            "it is an ASGI application (async); this server speaks WSGI. Wrap it, for example"
            " with a2wsgi.ASGIMiddleware"
        )
    signature = _signature(found)
    if signature is None or _takes(signature, 2):
        return None
    if _takes(signature, 0):
        return "it takes no arguments and looks like a factory: did you mean '{target}()'?"
    wanted = ", ".join(signature.parameters)
    return f"it takes ({wanted}), but a WSGI application takes (environ, start_response)"


def problem_with_hook(found: object) -> str | None:
    """Return why `found` cannot be called without arguments, or None if it can."""
    if not callable(found):
        return f"it is of type {type(found).__name__}, not a callable"
    if inspect.iscoroutinefunction(found):
        return "it is async, and a hook is called, not awaited: wrap it with asyncio.run"
    wanted = required_arguments(found)
    if wanted:
        return f"it wants arguments ({', '.join(wanted)}), but is called without any"
    return None


def required_arguments(factory: Callable[..., object]) -> list[str]:
    """Return the names of the arguments that `factory` cannot be called without."""
    signature = _signature(factory)
    if signature is None:
        return []
    return [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind in _REQUIRED and parameter.default is parameter.empty
    ]


def callables_in(holder: object) -> list[str]:
    """Return the public names of `holder` that could be an application or make one.

    What a module has only imported comes last: `Flask`, `request` and their like are seldom
    meant. Modules and exceptions are no candidates.
    """
    own: list[str] = []
    imported: list[str] = []
    for name, value in sorted(_public(holder).items()):
        if not callable(value) or isinstance(value, ModuleType) or _is_exception(value):
            continue
        is_foreign = isinstance(holder, ModuleType) and _defined_in(value) != holder.__name__
        (imported if is_foreign else own).append(name)
    return own + imported


def _public(holder: object) -> dict[str, object]:
    # vars() and not getattr(): a lazy attribute must not be made only to be listed.
    known: dict[str, object] = {}
    for each in (*reversed(type(holder).__mro__[:-1]), holder):
        known.update(getattr(each, "__dict__", {}))
    return {name: value for name, value in known.items() if not name.startswith("_")}


def _defined_in(value: object) -> object:
    # An instance has its class's __module__; it was made here all the same.
    if isinstance(value, type) or inspect.isroutine(value):
        return getattr(value, "__module__", None)
    return getattr(value, "import_name", None) or getattr(type(value), "__module__", None)


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _is_async(found: object) -> bool:
    return inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(
        getattr(type(found), "__call__", None)  # noqa: B004 - the method itself is looked at
    )


def _signature(found: Callable[..., object]) -> inspect.Signature | None:
    try:
        return inspect.signature(found)
    except (TypeError, ValueError):
        return None  # written in C, without a signature: not to be known


def _takes(signature: inspect.Signature, how_many: int) -> bool:
    arguments: list[Any] = [None] * how_many
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
