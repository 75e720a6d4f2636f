"""Tables that fit the terminal."""

from __future__ import annotations

import click
import pytest

from plenum.cli.tables import Column, clean, table_lines, terminal_width, without_empty

COLUMNS = (
    Column(head="NAME", fold=True),
    Column(head="PHASE"),
    Column(head="GPUS", right=True),
    Column(head="NOTE", fold=True, below=True),
)
SENTENCE = "waits because of the quota of tenant research: it wants 64 GPUs, and 16 GPUs of 24 GPUs are in use."
ROWS = [("pretrain-with-a-rather-long-name", "Pending", 64, SENTENCE), ("b", "Running", 8, "")]


def plain(lines) -> list[str]:
    return [click.unstyle(line) for line in lines]


def test_without_a_terminal_a_row_is_a_line() -> None:
    lines = plain(table_lines(COLUMNS, ROWS))
    assert len(lines) == 3
    assert lines[1].endswith(SENTENCE)
    assert lines[2] == "b                                 Running     8"


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    lines = plain(table_lines(COLUMNS, ROWS, width=width))
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "24 GPUs" in text
    assert "Running" in text


def test_a_long_note_goes_under_its_row_where_there_is_no_room_beside() -> None:
    lines = plain(table_lines(COLUMNS, ROWS, width=80))
    assert lines[0].split() == ["NAME", "PHASE", "GPUS"]
    assert lines[2].startswith("    waits because")
    assert lines[-1].startswith("b ")


def test_a_short_note_stays_beside() -> None:
    lines = plain(table_lines(COLUMNS, [("a", "Pending", 1, "soon")], width=80))
    assert lines == ["NAME  PHASE    GPUS  NOTE", "a     Pending     1  soon"]


def test_names_fold_where_nothing_else_helps() -> None:
    lines = plain(table_lines(COLUMNS[:3], [row[:3] for row in ROWS], width=40))
    assert len(lines) > 3
    width = lines[0].index("PHASE")
    assert "".join(line[:width].strip() for line in lines[1:3]) == ROWS[0][0]


def test_wide_characters_count_twice() -> None:
    lines = plain(table_lines((Column(head="A"), Column(head="B")), [("日本", "x"), ("abcd", "y")]))
    assert lines == ["A     B", "日本  x", "abcd  y"]


def test_text_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[31mb\r\nc\x07\u202ed") == "a [31mb  c  d"
    lines = list(table_lines((Column(head="A"),), [("\x1b]0;evil\x07",)]))
    assert "\x1b]" not in "".join(lines)


def test_later_rows_keep_the_columns_of_the_first() -> None:
    lines = plain(table_lines(COLUMNS[:3], [("a", "Lost", 1)], widths=[10, 9, 4], heads=False))
    assert lines == ["a           Lost          1"]


def test_columns_in_which_nobody_has_anything_are_left_out_but_for_the_first_two() -> None:
    columns, rows = without_empty(COLUMNS, [("", "", "", "soon"), ("", "", "", "")])
    assert ([column.head for column in columns], rows) == (["NAME", "PHASE", "NOTE"], [["", "", "soon"], ["", "", ""]])


def test_what_is_piped_has_no_width_but_that_of_the_environment(monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width() is None
    monkeypatch.setenv("COLUMNS", "72")
    assert terminal_width() == 72


def test_a_last_column_may_be_as_wide_as_no_line_is() -> None:
    columns = (Column(head="TIME"), Column(head="WHAT", fold=True))
    assert plain(table_lines(columns, [("12:00", SENTENCE)], widths=[8, 2**62], heads=False)) == [
        "12:00     " + SENTENCE
    ]
