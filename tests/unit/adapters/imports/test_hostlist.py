"""Hostlist expressions."""

from __future__ import annotations

import pytest

from plenum.adapters.imports.hostlist import expand
from plenum.model.errors import FieldError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10,20]", ["n08", "n09", "n10", "n20"]),
        ("r[0-1]n[1-2]", ["r0n1", "r0n2", "r1n1", "r1n2"]),
        ("n[1-2].lab,x", ["n1.lab", "n2.lab", "x"]),
    ],
)
def test_names_are_spelled_out(text: str, names: list[str]) -> None:
    assert expand(text, "Nodes") == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a name is empty"),
        ("a,,b", "a name is empty"),
        ("n[1-2", "left open"),
        ("n1-2]", "do not match"),
        ("n[1-[2-3]]", "do not match"),
        ("n[3-1]", "not a list of numbers"),
        ("n[]", "not a list of numbers"),
        ("n[a-b]", "not a list of numbers"),
        ("n[0-999999999]", "more than 1,000,000"),
        ("n[0-999][0-999][0-999]", "more than 1,000,000"),
    ],
)
def test_a_wrong_expression_ends_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(FieldError, match=says):
        expand(text, "Nodes")
