"""The generated parts of README.md and ARCHITECTURE.md.

`python -m tests.documents` writes them anew; `unit/test_documents.py` fails when they are stale.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import loader

ROOT: Final = Path(__file__).resolve().parent.parent
ROOMS: Final = ("loader", "spm", "httpcore_srv")
MAPPED: Final = ("main.py", "app.py", *ROOMS, "benchmarks", "benchmarks/simulation")


def modules(place: str) -> list[Path]:
    """Return the sources of a room (or the one file) in the order of their names."""
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.glob("*.py"))


def module_map() -> str:
    """Return the table of modules, each with the first sentence of its docstring."""
    lines = ["| module | what it is |", "| --- | --- |"]
    for place in MAPPED:
        for path in modules(place):
            if path.name != "__init__.py":
                docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
                first = " ".join(docstring.split("\n\n")[0].split())
                lines.append(f"| `{path.relative_to(ROOT)}` | {first} |")
    return "\n".join(lines) + "\n"


def readme() -> str:
    """Return README.md with the options table that the code gives."""
    return _between((ROOT / "README.md").read_text(), "<!-- options -->", loader.markdown_table())


def architecture() -> str:
    """Return ARCHITECTURE.md with the map that the sources give."""
    return _between((ROOT / "ARCHITECTURE.md").read_text(), "<!-- map -->", module_map())


def _between(text: str, mark: str, content: str) -> str:
    before, rest = text.split(f"{mark}\n", 1)
    end = mark.replace("<!-- ", "<!-- /")
    _, after = rest.split(f"{end}\n", 1)
    return f"{before}{mark}\n{content}{end}\n{after}"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme())
    (ROOT / "ARCHITECTURE.md").write_text(architecture())
