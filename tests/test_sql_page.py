"""The words for the tables that people query: every column has one, and the page's query works."""

from __future__ import annotations

from exitfsm import projections
from exitfsm.projections import meaning


def test_every_column_of_every_table_has_its_words_in_the_tables_order() -> None:
    assert {name: list(columns) for name, columns in meaning.COLUMNS.items()} == {
        name: list(kinds) for name, kinds in projections.KINDS.items()
    }
    assert meaning.TABLES.keys() == projections.TABLES.keys()
    assert all(text.strip() for columns in meaning.COLUMNS.values() for text in columns.values())
