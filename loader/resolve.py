"""Command line, environment and defaults, joined, checked and completed: one `Options`."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .bind import Bind, TcpBind
from .cores import usable_cores
from .errors import UsageError
from .option_spec import ENVIRONMENT_PREFIX, OptionSpec
from .options import DEFAULT_MAX_STREAMS, DEFAULT_MAX_THREADS, MOST_WORKERS, OPTIONS
from .settings import Options
from .target import Target

COMMAND_LINE: Final = "command line"
ENVIRONMENT: Final = "environment"
DEFAULT: Final = "default"


class Given(NamedTuple):
    """The texts that somebody gave for one option, and who did.

    label: how an error names the option: `--port`, `SMART_HTTP_PORT`.
    """

    spec: OptionSpec
    texts: tuple[str, ...]
    source: str
    label: str

    def values(self) -> tuple[Any, ...]:
        """Read every text. Raises: UsageError that names option, value and remedy."""
        read_list = self.spec.read_list
        if self.source == ENVIRONMENT and read_list is not None:
            values: tuple[Any, ...] = self._read(read_list, self.texts[0])
            return values
        return tuple(self._read(self.spec.read, text) for text in self.texts)

    def _read(self, read: Callable[[str], Any], text: str) -> Any:
        try:
            return read(text)
        except UsageError as error:
            raise UsageError(f"{self.label} {text!r}: {error.message}{_hint(self, text)}") from None


def _hint(given: Given, text: str) -> str:
    if given.source == ENVIRONMENT and text.startswith("tcp://"):
        # Docker links and Kubernetes make NAME_PORT=tcp://... out of a service called name.
        return " (Kubernetes sets this for a service `smart-http`: set enableServiceLinks: false)"
    return ""


def collect(
    typed: Mapping[str, Sequence[str]], environ: Mapping[str, str], labels: Mapping[str, str]
) -> dict[str, Given]:
    """Join command line, environment and defaults; the first that says something wins.

    typed: option name -> texts given on the command line.
    labels: option name -> how it was typed, where that is not `--name`.
    An environment variable that is set but empty counts as not set.
    """
    given = {}
    for spec in OPTIONS:
        label = labels.get(spec.name, spec.flag)
        if typed.get(spec.name):
            given[spec.name] = Given(spec, tuple(typed[spec.name]), COMMAND_LINE, label)
        elif environ.get(spec.variable, "").strip():
            text = environ[spec.variable].strip()
            given[spec.name] = Given(spec, (text,), ENVIRONMENT, spec.variable)
        else:
            default = (spec.default,) if spec.default else ()
            given[spec.name] = Given(spec, default, DEFAULT, spec.flag)
    return given


def resolve(
    typed: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    *,
    labels: Mapping[str, str] | None = None,
    notices: Sequence[str] = (),
) -> Options:
    """Read, check and complete everything that was given.

    Raises: UsageError for the first thing that cannot be.
    """
    given = collect(typed, environ, labels or {})
    read: dict[str, Any] = {"target": _target(given["lode"])}
    read["binds"], listening = _binds(given["bind"], given["port"])
    for spec in OPTIONS:
        if spec.field and spec.field not in read:
            read[spec.field] = _value(given[spec.name])
    _check_reload(read, given)
    _check_recycling(read, given)
    most_workers = min(MOST_WORKERS, max(4, 2 * usable_cores()))
    read["max_workers"] = _maximum("workers", read, given, most_workers)
    read["max_threads"] = _maximum("threads", read, given, DEFAULT_MAX_THREADS)
    if read["max_streams"] is None:
        # One thread is asked for where the application is not thread-safe: no other beside it.
        read["max_streams"] = DEFAULT_MAX_STREAMS if read["max_threads"] > 1 else 0
    sources = {name: _source(each) for name, each in given.items()}
    sources["bind"] = _source(listening)
    unknown = _unknown_variables(environ)
    return Options(**read, notices=(*notices, *unknown), sources=sources)


def resolve_binds(
    typed: Mapping[str, Sequence[str]], environ: Mapping[str, str]
) -> tuple[Bind, ...]:
    """Read only where the server listens. Raises: UsageError."""
    given = collect(typed, environ, {})
    return _binds(given["bind"], given["port"])[0]


def _value(given: Given) -> Any:
    values_given = given.values()
    if given.spec.read_list is not None:
        return values_given
    # Repeating an option that takes one value: the last one counts, as everywhere in a shell.
    return values_given[-1] if values_given else None


def _check_reload(read: Mapping[str, Any], given: Mapping[str, Given]) -> None:
    include = given["reload-include"]
    if read["reload_includes"] and not read["reload"]:
        raise UsageError(f"{include.label} {include.texts[0]!r} does nothing without --reload")
    if read["reload"] and importlib.util.find_spec("watchfiles") is None:
        raise UsageError(
            f"{given['reload'].label} needs the package watchfiles: pip install watchfiles"
            " (or install this server with its extra `reload`)"
        )


def _check_recycling(read: Mapping[str, Any], given: Mapping[str, Given]) -> None:
    jitter = given["max-requests-jitter"]
    if read["max_requests_jitter"] and not read["max_requests"]:
        raise UsageError(f"{jitter.label} {jitter.texts[-1]!r} does nothing without --max-requests")


def _target(given: Given) -> Target:
    targets: tuple[Target, ...] = given.values()
    if not targets:
        raise UsageError(
            "say what to serve: '--lode:app->app' or app:app for `app` in app.py (see --help)"
        )
    if len(set(targets)) > 1:
        raise UsageError(f"one application at a time, not both {targets[0]} and {targets[1]}")
    return targets[0]


def _binds(bind: Given, port: Given) -> tuple[tuple[Bind, ...], Given]:
    """Return the addresses and which of the two options they come from."""
    if port.source != DEFAULT and port.source == bind.source:
        raise UsageError(
            f"{port.label} and {bind.label} together: give only {bind.label}"
            f" ({port.label} {port.texts[-1]} is short for 127.0.0.1:{port.texts[-1]})"
        )
    # The command line goes before the environment, whichever of the two options it used.
    if port.source == COMMAND_LINE or (port.source == ENVIRONMENT and bind.source == DEFAULT):
        return (TcpBind("127.0.0.1", _value(port)),), port
    binds: tuple[Bind, ...] = bind.values()
    if not binds:
        raise UsageError(f"{bind.label} {bind.texts[0]!r}: no address; write 127.0.0.1:8080")
    for address in binds:
        if binds.count(address) > 1 and not (isinstance(address, TcpBind) and address.port == 0):
            raise UsageError(f"{bind.label} {address} is given twice; once is enough")
    return binds, bind


def _maximum(what: str, read: Mapping[str, Any], given: Mapping[str, Given], most: int) -> int:
    low: int = read[f"min_{what}"]
    high: int | None = read[f"max_{what}"]
    if high is None:
        return max(most, low)  # a default never contradicts what was asked for
    if low > high:
        small, large = given[f"min-{what}"].label, given[f"max-{what}"].label
        raise UsageError(
            f"{small} {low} is more than {large} {high}; raise the one or lower the other"
        )
    return high


def _source(given: Given) -> str:
    return f"{ENVIRONMENT} ({given.label})" if given.source == ENVIRONMENT else given.source


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that is surely a misspelt option.

    Only a near miss is worth a line: Kubernetes and others set variables with our prefix too.
    """
    known = [spec.variable for spec in OPTIONS]
    return [
        f"{name} is not an option of this server; did you mean {near}?"
        for name in sorted(environ)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
        for near in difflib.get_close_matches(name, known, n=1, cutoff=0.88)
    ]
