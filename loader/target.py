"""The grammar of `MODULE->CALLABLE`: which object of which module is the application.

    target  = module ( "->" / ":" ) path [ "()" ]
    module  = name *( "." name )
    path    = name *( "." name )
    name    = a Python identifier that is no keyword

`()` at the end says that the object is a factory: it is called once, without arguments, and
what it returns is the application.
"""

from __future__ import annotations

import keyword
import re
from typing import NamedTuple

from .errors import UsageError

_SEPARATOR = re.compile(r"\s*(?:->|:)\s*")
_FORM = "MODULE->CALLABLE, such as 'app->app' or app:app"


class Target(NamedTuple):
    """Where the application is; `str()` is the short form that can be typed unquoted.

    module: dotted name to import.
    path: attribute names to follow from the module.
    is_factory: what the path leads to makes the application when called.
    """

    module: str
    path: tuple[str, ...]
    is_factory: bool = False

    def __str__(self) -> str:
        return f"{self.module}:{'.'.join(self.path)}{'()' if self.is_factory else ''}"

    def quoted(self) -> str:
        """Return the `--lode:` form as it has to be typed in a shell."""
        return f"'--lode:{str(self).replace(':', '->', 1)}'"


def parse_target(text: str) -> Target:
    """Read a target.

    Raises: UsageError with one line that shows the right form.
    """
    text = text.strip()
    parts = _SEPARATOR.split(text)
    if len(parts) == 1:
        raise UsageError(_without_callable(text))
    if len(parts) > 2:
        raise UsageError(f"one '->' or ':' is enough: write {_FORM}")
    module, path = parts
    if not module:
        raise UsageError(f"say which module: {_guess('app', path)}")
    if not path:
        raise UsageError(f"say which callable: {_guess(module, 'app')}")
    _check_module(module, path)
    names, is_factory = _names_of(path, module)
    return Target(module, names, is_factory)


def parse_hook(text: str) -> Target:
    """Read which function is a hook: a target that is no factory. Raises: UsageError."""
    hook = parse_target(text)
    if hook.is_factory:
        plain = str(hook).removesuffix("()")
        raise UsageError(f"the server calls it; write {plain}, without parentheses")
    return hook


def is_dotted_name(text: str) -> bool:
    """Tell whether `text` is a dotted Python name."""
    return all(name.isidentifier() and not keyword.iskeyword(name) for name in text.split("."))


def _without_callable(text: str) -> str:
    if not text:
        return f"say what to serve: {_FORM}"
    if text.endswith("-"):
        # The shell took `>name` for a redirection; loader.shell_form serves what it can of that.
        guess = _guess(text.rstrip("-"), "app").replace(":", "->")
        return f"the shell took what followed '-' for a redirection; quote it: '--lode:{guess}'"
    head, dot, last = text.rpartition(".")
    if dot and last != "py" and is_dotted_name(text):
        return f"say which callable: {text}:app, or {head}:{last} if {last} is the callable"
    return f"say which callable: {_guess(text, 'app')}"


def _guess(module: str, path: str) -> str:
    """Return the likeliest right form for a module that may have been given as a file."""
    module = module.removeprefix("./").strip("/").removesuffix(".py").replace("/", ".").strip(".")
    path = path.removesuffix(".py")
    if not is_dotted_name(module):
        module = re.sub(r"\W+", "_", module).strip("_")
    if not is_dotted_name(module):
        module = "app"
    return f"{module}:{path}" if is_dotted_name(path.removesuffix("()")) else f"{module}:app"


def _check_module(module: str, path: str) -> None:
    if "/" in module or module.endswith(".py"):
        right = _guess(module, path)
        raise UsageError(f"a module is named as `import` names it, not as a file: {right}")
    if module.startswith("."):
        right = _guess(module, path)
        raise UsageError(f"a module is named in full, without a dot in front: {right}")
    if not is_dotted_name(module):
        right = _guess(module, path)
        raise UsageError(f"{module!r} cannot be the name of a Python module; write as in {right}")


def _names_of(path: str, module: str) -> tuple[tuple[str, ...], bool]:
    name, parenthesis, arguments = path.partition("(")
    name = name.rstrip()
    if not is_dotted_name(name):
        right = _guess(module, name)
        raise UsageError(f"{path!r} cannot be the name of a callable; write as in {right}")
    if parenthesis and arguments.strip() != ")":
        raise UsageError(f"a factory is called without arguments: {module}:{name}()")
    return tuple(name.split(".")), bool(parenthesis)
