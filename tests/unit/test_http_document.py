"""docs/http.md says what the code says, and names tests that exist."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from httpcore_srv import stream
from httpcore_srv.grammar import MAX_METHOD_LENGTH
from httpcore_srv.ports import Incident
from loader.options import BY_NAME, LIMITS, OPTIONS, TIMEOUTS
from tests.documents import ROOT

DOCUMENT = ROOT / "docs" / "http.md"
TESTS = ROOT / "tests"
INTERIM = {100, 103}
NONE = "–"  # as the document prints that there is none
# What stands in the table of bounds without an option, and is a constant of the code.
CONSTANTS = {
    "octets of a method": MAX_METHOD_LENGTH,
    "octets read ahead on one connection": stream.RECEIVE_BYTES,
    "pipelined requests answered in a row": stream.PIPELINE_RUN,
}


@dataclass(frozen=True)
class Row:
    """One row of a table: its line in the document, and its cells by their headings."""

    line: int
    section: str
    cells: dict[str, str]


@functools.cache
def rows() -> tuple[Row, ...]:
    """Return the rows of all tables."""
    found = []
    section = ""
    headings: list[str] = []
    for number, line in enumerate(DOCUMENT.read_text().splitlines(), 1):
        if line.startswith("#"):
            section = line.lstrip("# ")
        if not line.startswith("|"):
            headings = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not headings:
            headings = cells
        elif set(cells) != {"---"}:
            assert len(cells) == len(headings), f"line {number}: {len(cells)} cells"
            found.append(Row(number, section, dict(zip(headings, cells, strict=True))))
    return tuple(found)


def quoted(text: str) -> list[str]:
    """Return what stands between back-ticks."""
    return re.findall(r"`([^`]+)`", text)


def named(row: Row) -> Iterator[str]:
    """Yield the tests and corpus files that a row names, each with its file."""
    file = ""
    for reference in quoted(row.cells["test"]):
        path, colons, name = reference.partition("::")
        file = path or file
        yield f"{file}{colons}{name}"


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """Return the names of the tests in a file, without importing it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):  # a state machine of Hypothesis
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(name for name in names if re.match("test_|Test", name))


@functools.cache
def files_of_tests() -> tuple[Path, ...]:
    """Return all files with tests."""
    return tuple(TESTS.rglob("test_*.py"))


@functools.cache
def corpus() -> tuple[str, ...]:
    """Return the cases of the corpus, as the document names them."""
    return tuple(
        f"{kind}/{path.stem}"
        for kind in ("valid", "invalid")
        for path in (TESTS / "corpus" / kind).glob("*.http")
    )


def places(reference: str) -> list[str]:
    """Return what a reference can mean: exactly one test, or some files of the corpus."""
    if reference.startswith(("valid/", "invalid/")):
        return [case for case in corpus() if fnmatch(case, reference)][:1]
    path, _, name = reference.partition("::")
    return [
        str(file)
        for file in files_of_tests()
        if file.as_posix().endswith(f"/{path}") and (not name or name in names_in(file))
    ]


def refusals() -> Iterator[tuple[int, int]]:
    """Yield status and Retry-After of every ProtocolError that the sources make."""
    for path in (ROOT / "httpcore_srv").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "ProtocolError"):
                continue
            later = [ast.literal_eval(word.value) for word in node.keywords]
            for number in ast.walk(node.args[0]):
                if isinstance(number, ast.Constant) and isinstance(number.value, int):
                    yield number.value, later[0] if later else 0


def statuses(text: str) -> set[int]:
    """Return the statuses that a text names."""
    return {int(number) for number in re.findall(r"\b[1-5][0-9]{2}\b", text)}


def answers() -> list[Row]:
    """Return the table of the server's own answers."""
    return [row for row in rows() if "status" in row.cells]


def incidents(row: Row) -> set[str]:
    """Return the incidents that a row names."""
    return set(row.cells["incident"].split(", ")) - {NONE}


def test_every_row_names_a_test() -> None:
    assert [row.line for row in rows() if not quoted(row.cells.get("test", ""))] == []


def test_every_test_that_is_named_exists_and_there_is_only_one() -> None:
    found = {(row.line, name): places(name) for row in rows() for name in named(row)}
    assert {reference: files for reference, files in found.items() if len(files) != 1} == {}


def test_every_file_of_the_corpus_is_named() -> None:
    patterns = {name for row in rows() for name in named(row)} - {"valid/*", "invalid/*"}
    assert [case for case in corpus() if not any(fnmatch(case, each) for each in patterns)] == []


def test_every_option_that_is_named_exists() -> None:
    options = {option for text in quoted(DOCUMENT.read_text()) for option in text.split()}
    unknown = {option for option in options if option.startswith("--")}
    assert unknown - {spec.flag for spec in OPTIONS} == set()


def test_the_values_of_options_are_those_of_the_code() -> None:
    said = [row for row in rows() if "default" in row.cells]
    assert said
    for row in said:
        (flag,) = quoted(row.cells["option"])
        assert row.cells["default"] == BY_NAME[flag.removeprefix("--")].shown_default(), flag


def test_every_limit_and_time_out_has_its_row() -> None:
    shown = {flag for row in rows() for flag in quoted(row.cells.get("option", ""))}
    assert {spec.flag for spec in OPTIONS if spec.section in (LIMITS, TIMEOUTS)} <= shown


def test_values_of_options_are_said_in_those_tables_only() -> None:
    lines = DOCUMENT.read_text().splitlines()
    assert {line for line in lines if "default" in line.lower()} == {
        "| option | default | bounds | at the bound | incident | test |"
    }


def test_values_without_an_option_are_those_of_the_code() -> None:
    said = {row.cells["bounds"]: row.cells["value"] for row in rows() if "value" in row.cells}
    assert {bound: said.get(bound) for bound in CONSTANTS} == {
        bound: str(value) for bound, value in CONSTANTS.items()
    }


def test_every_answer_of_the_server_is_in_the_table_and_no_other() -> None:
    later = {
        (int(row.cells["status"]), int(row.cells["Retry-After"].replace(NONE, "0")))
        for row in answers()
    }
    # 500 is the application's, by way of `error_page`.
    assert later == {*refusals(), *((status, 0) for status in {*INTERIM, 500})}


def test_limits_and_time_outs_answer_with_what_is_in_the_table() -> None:
    shown = {int(row.cells["status"]) for row in answers()}
    bounds = [row for row in rows() if "at the bound" in row.cells]
    assert bounds
    for row in bounds:
        assert statuses(row.cells["at the bound"]) <= shown, row.line


def test_answers_are_counted_as_the_table_says() -> None:
    for row in answers():
        incident = Incident.of_status(int(row.cells["status"]))
        if incident is not None:
            assert incidents(row) == {incident.name.lower()}, row.line


def test_every_incident_is_named_and_no_other() -> None:
    shown: set[str] = set()
    for row in rows():
        if "incident" in row.cells:
            shown |= incidents(row)
    assert shown == {incident.name.lower() for incident in Incident}


def test_what_went_wrong_elsewhere_is_all_there() -> None:
    tried = "".join(file.read_text() for file in files_of_tests() if "cve" in file.name)
    known = "".join(row.cells.get("id", "") for row in rows())
    pattern = r"CVE-\d+-\d+|GHSA(?:-\w{4}){3}"
    assert set(re.findall(pattern, known)) == set(re.findall(pattern, tried))
