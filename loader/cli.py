"""From `argv` to one frozen value: what to serve, or whom to ask for its status."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import click

from . import shell_form
from .bind import Bind, parse_bind
from .errors import PROGRAM, UsageError
from .option_spec import OptionSpec
from .options import OPTIONS, SECTIONS
from .resolve import resolve, resolve_binds
from .settings import Options
from .version import VERSION

_LODE: Final = "--lode"
_STATUS: Final = "status"
_UPGRADE: Final = "upgrade"

# Where a server that is started anew finds what the shell's redirection meant: its standard
# output is not on that file any more.
SERVED_TARGET: Final = "SMART_HTTP_SERVED_TARGET"

# What the users of other servers type first; no spelling is near enough to guess these.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "--load": "did you mean --lode?",
    "-w": "workers follow the load between --min-workers and --max-workers",
    "--workers": "workers follow the load between --min-workers and --max-workers",
    "--threads": "threads follow the load between --min-threads and --max-threads",
    "--host": "host and port are one value: --bind HOST:PORT",
    "--timeout": "see --header-timeout, --body-timeout, --write-timeout, --graceful-timeout",
}

_EXAMPLES: Final = (
    ("{prog} '--lode:app->app'", "`app` in app.py, on http://127.0.0.1:8080"),
    ("{prog} 'shop.web:make()' --bind :80 --max-workers 8", "a factory, on all interfaces"),
)
_EPILOG: Final = (
    "Every option can be set in the environment as well: --max-body is SMART_HTTP_MAX_BODY. The"
    " command line goes first.",
    "`{prog} status` shows what a running server is doing; `{prog} status --help` says how."
    " `{prog} upgrade` replaces it by a new one that is started from what is on the disk now.",
)


class StatusQuery(NamedTuple):
    """A question to a running server; at most one of the three ways to find it is set.

    json: print the answer as JSON.
    control: path of its control socket.
    """

    json: bool
    pid_file: str | None = None
    control: str | None = None
    bind: Bind | None = None


class UpgradeOrder(NamedTuple):
    """A running server is to be replaced by a new one; found as for a StatusQuery."""

    pid_file: str | None = None
    control: str | None = None
    bind: Bind | None = None


def parse(
    argv: Sequence[str],
    environ: Mapping[str, str] = os.environ,
    *,
    prog: str | None = None,
    stdout_fd: int = 1,
    stderr_fd: int = 2,
) -> Options | StatusQuery | UpgradeOrder:
    """Understand the command line (without the program's own name) and the environment.

    prog: how the program is called, for help and errors.
    Raises: UsageError, one line, if that cannot be done; SystemExit(0) after `--help` and
        `--version`, which print on standard output.
    """
    prog = prog or _program()
    arguments = list(split_lode(argv))
    if arguments[:1] == [_STATUS]:
        return _status(arguments[1:], environ, prog)
    if arguments[:1] == [_UPGRADE]:
        return _upgrade(arguments[1:], environ, prog)
    command = _MainCommand(prog)
    context, found = _tokenise(command, arguments, prog)
    typed, labels = _typed(found)
    notices: list[str] = []
    texts = typed.get("lode", ())
    if len(texts) == 1 and shell_form.is_cut_off(texts[0]):
        # Before anything is printed, so that help goes to the user and not into the file.
        known = environ.get(SERVED_TARGET)
        if known is None:
            target, notice = shell_form.recover(texts[0], stdout_fd=stdout_fd, stderr_fd=stderr_fd)
            known = str(target)
            notices.append(notice)
        typed["lode"] = (known,)
    if found["help"]:
        _print_and_end(command.get_help(context))
    if found["version"]:
        _print_and_end(f"{PROGRAM} {VERSION}")
    return resolve(typed, environ, labels=labels, notices=notices)


def split_lode(argv: Sequence[str]) -> Iterator[str]:
    """Yield the arguments with `--lode:X` made `--lode X`, which click can read."""
    rest = iter(argv)
    for argument in rest:
        if argument.startswith(f"{_LODE}:"):
            yield _LODE
            yield argument.removeprefix(f"{_LODE}:")
        else:
            yield argument
        if argument == "--":  # the end of options: what follows is meant as it stands
            yield from rest


class _MainCommand(click.Command):
    """The command without a callback: click reads the words and formats the help."""

    def __init__(self, prog: str) -> None:
        parameters: list[click.Parameter] = [_click_option(spec) for spec in OPTIONS]
        parameters.append(click.Argument(["application"], required=False, metavar="TARGET"))
        parameters.append(click.Option(["--version"], is_flag=True, help="Print the version."))
        # Plain switches, not click's eager ones: those would print before the shell's
        # redirection has been understood.
        parameters.append(click.Option(["-h", "--help"], is_flag=True, help="Print this."))
        super().__init__(PROGRAM, params=parameters, add_help_option=False)
        self._prog = prog

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the whole help text."""
        formatter.write_usage(self._prog, "[OPTIONS] MODULE:CALLABLE")
        formatter.write_usage(self._prog, "[OPTIONS] '--lode:MODULE->CALLABLE'", "       ")
        formatter.write_usage(self._prog, "status [--json]", "       ")
        formatter.write_usage(self._prog, "upgrade", "       ")
        formatter.write_paragraph()
        formatter.write_text(
            "Serve a WSGI application (Flask, Django, Bottle, any). Processes and threads follow"
            " the load by themselves."
        )
        with formatter.section("Examples"):
            formatter.write_dl([(line.format(prog=self._prog), says) for line, says in _EXAMPLES])
        for section in SECTIONS:
            with formatter.section(section):
                formatter.write_dl([_help_row(s) for s in OPTIONS if s.section == section])
        with formatter.section("Help"):
            formatter.write_dl([("--version", "Print the version."), ("-h, --help", "Print this.")])
        for paragraph in _EPILOG:
            formatter.write_paragraph()
            formatter.write_text(paragraph.format(prog=self._prog))


def _click_option(spec: OptionSpec) -> click.Option:
    names = [f"-{spec.short}"] if spec.short else []
    names.append(f"{spec.flag}/--{spec.opposite}" if spec.opposite else spec.flag)
    if spec.is_switch:
        return click.Option([*names, spec.name.replace("-", "_")], is_flag=True, default=None)
    # Text only: reading and checking belong to the table, where the environment passes too.
    return click.Option(names, type=str, multiple=True, metavar=spec.metavar)


def _help_row(spec: OptionSpec) -> tuple[str, str]:
    names = f"-{spec.short}, {spec.flag}" if spec.short else spec.flag
    default = spec.shown_default()
    if spec.is_switch or not default:
        return f"{names} {spec.metavar}".rstrip(), spec.help
    return f"{names} {spec.metavar}", f"{spec.help} [{default}]"


def _typed(found: Mapping[str, object]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the texts per option as typed, and how errors are to name them."""
    typed: dict[str, tuple[str, ...]] = {}
    for spec in OPTIONS:
        value = found.get(spec.name.replace("-", "_"))
        if isinstance(value, bool):
            typed[spec.name] = ("yes" if value else "no",)
        elif isinstance(value, tuple) and value:
            typed[spec.name] = tuple(str(text) for text in value)
    application = found.get("application")
    if application is None:
        return typed, {}
    labels = {} if "lode" in typed else {"lode": "application"}
    typed["lode"] = (*typed.get("lode", ()), str(application))
    return typed, labels


def _tokenise(
    command: click.Command, arguments: list[str], prog: str
) -> tuple[click.Context, Mapping[str, object]]:
    """Let click take the arguments apart, and say what it cannot in one line of ours."""
    try:
        context = command.make_context(prog, arguments)
    except click.NoSuchOption as error:
        raise UsageError(_no_such_option(error.option_name, command, prog)) from None
    except click.UsageError as error:
        raise UsageError(f"{_one_line(error.format_message())} (see {prog} --help)") from None
    return context, context.params


def _no_such_option(name: str, command: click.Command, prog: str) -> str:
    name = name.split(":")[0]  # --load:app->app
    if name in _ELSEWHERE:
        return f"no such option {name}: {_ELSEWHERE[name]}"
    known = [
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    ]
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"see {prog} --help"
    return f"no such option {name}: {remedy}"


def _one_line(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _print_and_end(text: str) -> NoReturn:
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()
    raise SystemExit(0)


def _program() -> str:
    """Return how the program was called: `python main.py`, or the installed command."""
    name = os.path.basename(sys.argv[0])
    return f"python {name}" if name.endswith(".py") else PROGRAM


def _ways_to_find() -> list[click.Parameter]:
    return [
        click.Option(["--pid"], metavar="FILE", help="Find the server by its --pid file."),
        click.Option(["--control"], metavar="PATH", help="Find it by its control socket."),
        click.Option(
            ["-b", "--bind"],
            metavar="ADDRESS",
            help="Find it by where it listens. [the one server that runs]",
        ),
        click.Option(["-h", "--help"], is_flag=True, help="Print this."),
    ]


def _status_command() -> click.Command:
    return click.Command(
        _STATUS,
        params=[
            click.Option(["--json"], is_flag=True, help="Print JSON."),
            *_ways_to_find(),
        ],
        help=(
            "Show what a running server is doing: Total, Busy, Idle, KillPending workers,"
            " requests, and each worker's own figures. SMART_HTTP_PID and SMART_HTTP_BIND are"
            " read where no option says how to find it."
        ),
        add_help_option=False,
    )


def _upgrade_command() -> click.Command:
    return click.Command(
        _UPGRADE,
        params=_ways_to_find(),
        help=(
            "Replace a running server by a new one, started by the same command from what is on"
            " the disk now: server, application, Python. No connection is refused or closed. If"
            " the new one does not come up, the old one serves on and the exit status is 1."
        ),
        add_help_option=False,
    )


def _status(arguments: list[str], environ: Mapping[str, str], prog: str) -> StatusQuery:
    command = _status_command()
    context, found = _tokenise(command, arguments, f"{prog} {_STATUS}")
    if found["help"]:
        _print_and_end(command.get_help(context))
    return StatusQuery(bool(found["json"]), **_found_by(found, environ))


def _upgrade(arguments: list[str], environ: Mapping[str, str], prog: str) -> UpgradeOrder:
    command = _upgrade_command()
    context, found = _tokenise(command, arguments, f"{prog} {_UPGRADE}")
    if found["help"]:
        _print_and_end(command.get_help(context))
    return UpgradeOrder(**_found_by(found, environ))


def _found_by(found: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the one way to find the running server, as a field of a query."""
    ways = [name for name in ("pid", "control", "bind") if found[name]]
    if len(ways) > 1:
        raise UsageError(
            f"--{ways[0]} and --{ways[1]} together: one way to find the server is enough"
        )
    if not ways:
        return _found_by_environment(environ)
    text = str(found[ways[0]])
    if ways[0] == "control":
        return {"control": text}
    try:
        if ways[0] == "pid":
            return {"pid_file": os.path.abspath(text)}
        return {"bind": parse_bind(text)}
    except UsageError as error:
        raise UsageError(f"--{ways[0]} {text!r}: {error.message}") from None


def _found_by_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Find the server as it finds its own settings; without any, the one that runs is meant."""
    pid_file = environ.get("SMART_HTTP_PID", "").strip()
    if pid_file:
        return {"pid_file": os.path.abspath(pid_file)}
    if environ.get("SMART_HTTP_BIND", "").strip() or environ.get("SMART_HTTP_PORT", "").strip():
        return {"bind": resolve_binds({}, environ)[0]}
    return {}
