"""The options in print: what `--check` says, and the table of the README."""

from __future__ import annotations

from .errors import PROGRAM
from .option_spec import OptionSpec
from .options import OPTIONS, SECTIONS
from .resolve import DEFAULT
from .settings import Options
from .target import Target
from .values import show_size
from .version import VERSION


def check_report(options: Options) -> str:
    """Return the settings in force, in aligned columns, each with where it came from."""
    rows = [
        (spec, spec.flag, _shown(spec, options), _source(spec, options)) for spec in _settings()
    ]
    name_width = max(len(row[1]) for row in rows)
    value_width = min(40, max(len(row[2]) for row in rows))
    lines = [f"{PROGRAM} {VERSION}: {options.target} loads. The settings in force:"]
    for section in SECTIONS:
        lines += ["", section]
        lines += [
            f"  {name:<{name_width}}  {value:<{value_width}}  {source}"
            for spec, name, value, source in rows
            if spec.section == section
        ]
    return "\n".join(lines) + "\n"


def markdown_table() -> str:
    """Return the table of all options for the README."""
    lines = ["| option | environment | default | meaning |", "| --- | --- | --- | --- |"]
    for spec in OPTIONS:
        names = f"`-{spec.short}`, " if spec.short else ""
        metavar = f" {spec.metavar}".replace("|", "\\|") if spec.metavar else ""
        meaning = spec.help.replace("|", "\\|")
        default = spec.shown_default() or "none"
        lines.append(
            f"| {names}`{spec.flag}{metavar}` | `{spec.variable}` | {default} | {meaning} |"
        )
    return "\n".join(lines) + "\n"


def _settings() -> list[OptionSpec]:
    # `--check` itself is not a setting; `--port` shows as the address that it stands for.
    return [spec for spec in OPTIONS if spec.field and spec.field != "check"]


def _source(spec: OptionSpec, options: Options) -> str:
    return options.sources.get(spec.name, DEFAULT)


def _shown(spec: OptionSpec, options: Options) -> str:
    """Return a value as it would be typed."""
    value: object = getattr(options, spec.field)
    if value is None or (value == 0 and spec.default == "0" and spec.default_text):
        return spec.default_text
    if spec.field == "preload":
        return "no" if value else "yes"
    if "|" in spec.metavar:
        return next(word for word in spec.metavar.split("|") if spec.read(word) == value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple) and not isinstance(value, Target):
        return ", ".join(str(each) for each in value) or spec.default_text
    if isinstance(value, float):
        return f"{value:g} s"
    if spec.metavar == "BYTES" and isinstance(value, int):
        return show_size(value) if value else "0"
    return str(value)
