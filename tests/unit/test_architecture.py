"""The rooms and who may import what, read from the sources (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOMS, ROOT, modules

ALLOWED = {"spm": {"psutil"}, "httpcore_srv": set(), "loader": {"click", "watchfiles"}}
CORE = (
    "grammar messages fields body request_line request_parser response_writer connection".split()  # noqa: SIM905
)
# What the core may use of its room besides itself; no more input or output than in the core.
FOUNDATION = ["errors", "mode", "pace", "settings"]
NO_INPUT_OR_OUTPUT = {"socket", "select", "selectors", "threading", "time", "os"}
MAX_FUNCTION_LINES = 65
MAX_MODULE_LINES = 520


def imported(path: Path) -> Iterator[str]:
    """Yield the full names of what a module imports, but for type checking alone."""
    tree = ast.parse(path.read_text())
    package = path.relative_to(ROOT).parts[:-1]
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    allowed = set(sys.stdlib_module_names) | {room} | ALLOWED[room]
    for path in modules(room):
        strangers = {name.split(".")[0] for name in imported(path)} - allowed
        assert not strangers, f"{path.name} imports {strangers}"


@pytest.mark.parametrize("module", [*CORE, *FOUNDATION])
def test_the_protocol_core_does_no_input_or_output(module: str) -> None:
    names = list(imported(ROOT / "httpcore_srv" / f"{module}.py"))
    assert not {name.split(".")[0] for name in names} & NO_INPUT_OR_OUTPUT
    # Nor does it by way of another module.
    inside = {name.split(".")[1] for name in names if name.startswith("httpcore_srv.")}
    assert inside <= {*CORE, *FOUNDATION}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_inside_a_room_have_no_cycle(room: str) -> None:
    names = {path.stem: path for path in modules(room) if path.stem != "__init__"}
    graph = {
        stem: {
            name.split(".")[1]
            for name in imported(path)
            if name.startswith(f"{room}.") and name.split(".")[1] in names
        }
        for stem, path in names.items()
    }
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("room", [*ROOMS, "main.py"])
def test_modules_and_functions_stay_readable(room: str) -> None:
    for path in modules(room):
        text = path.read_text()
        assert text.count("\n") <= MAX_MODULE_LINES, f"{path.name} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {lines} lines"


def undocumented(nodes: list[ast.stmt]) -> Iterator[str]:
    """Yield the public functions and classes without a docstring, methods included."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node.body)


@pytest.mark.parametrize("room", ROOMS)
def test_everything_public_has_a_docstring(room: str) -> None:
    for path in modules(room):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path.name
        assert not list(undocumented(tree.body)), path.name
