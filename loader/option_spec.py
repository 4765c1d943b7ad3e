"""OptionSpec: all there is to say about one option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

ENVIRONMENT_PREFIX: Final = "SMART_HTTP_"


class OptionSpec(NamedTuple):
    """One option: how it is typed, read, explained, and what it is when not given.

    name: as typed, without the dashes.
    field: its field of `Options`; empty where another option's field takes the value.
    metavar: the value's place holder; empty for a switch.
    read: text -> value, or UsageError.
    default: as it would be typed; empty for none.
    default_text: what to print for the default where that says more.
    """

    name: str
    field: str
    section: str
    metavar: str
    read: Callable[[str], object]
    default: str
    help: str
    default_text: str = ""
    short: str = ""
    opposite: str = ""
    read_list: Callable[[str], tuple[object, ...]] | None = None

    @property
    def flag(self) -> str:
        """The option as typed: `--max-body`."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that stands for it: `SMART_HTTP_MAX_BODY`."""
        return ENVIRONMENT_PREFIX + self.name.upper().replace("-", "_")

    @property
    def is_switch(self) -> bool:
        """Whether the option is given without a value."""
        return not self.metavar

    def shown_default(self) -> str:
        """Return the default as help and README print it."""
        return self.default_text or self.default
