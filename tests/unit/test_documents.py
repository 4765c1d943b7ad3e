"""The documents say what the code says; `python -m tests.documents` refreshes them."""

from __future__ import annotations

from tests import documents


def test_readme_has_the_options_table_that_the_code_generates() -> None:
    assert (documents.ROOT / "README.md").read_text() == documents.readme()


def test_architecture_names_every_module_with_its_own_words() -> None:
    assert (documents.ROOT / "ARCHITECTURE.md").read_text() == documents.architecture()
