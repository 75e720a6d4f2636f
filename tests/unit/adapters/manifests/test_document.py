"""YAML in, values and lines out; junk ends in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from plenum.adapters.manifests.document import MAX_BYTES, MAX_DEPTH, load_documents, read_text
from plenum.model import FieldError, PlenumError
from plenum.model.errors import FileError


def test_every_value_knows_its_line() -> None:
    (document,) = load_documents("# c\nkind: A\nspec:\n  list:\n  - x: 1\n    y: [2,\n      3]\n")
    assert document.value == {"kind": "A", "spec": {"list": [{"x": 1, "y": [2, 3]}]}}
    assert document.line_of(("kind",)) == 2
    assert document.line_of(("spec", "list", 0, "y", 1)) == 7
    assert document.line_of(("spec", "list", 4, "nowhere")) == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-4", -4), ("0.3", 0.3), ("1e3", 1000.0), ("true", True), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("'7'", "7"), ('"true"', "true"),
        ("0x10", "0x10"), ("400Gb/s", "400Gb/s"), (".inf", ".inf"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    (document,) = load_documents(f"a: {text}\n")
    assert document.value["a"] == value
    assert type(document.value["a"]) is type(value)


def test_several_documents_and_empty_ones() -> None:
    documents = load_documents("---\na: 1\n---\n---\nb: 2\n...\n")
    assert [d.value for d in documents] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3", "'a' is given twice, first on line 1"),
        ("a: &x 1\nb: *x", "aliases such as"),
        ("a: !!python/object:os.system x", "tags such as"),
        ("a: !!map {}", "tags such as"),
        ("? [1]\n: 2", "a key must be text"),
        ("a: [1, 2\nb: ", "is not YAML"),
        ("a: \x01", "is not YAML"),
        ("- a\n- b", "is not a manifest"),
        ("just text", "is not a manifest"),
        ("", "is empty"),
        ("# only a comment", "is empty"),
        ("a: " + "[" * 1_000_000, f"more than {MAX_DEPTH} levels deep"),
        ("\n".join(f"k{i}: 1" for i in range(100_000)), "is not a manifest"),
        ("a:\n" + "- 1\n" * 500_001, "more than 500,000 values"),
        ("---\na: 1\n" * 10_001, "more than 10,000 documents"),
    ],
)
def test_junk_gets_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(PlenumError, match=sentence) as caught:
        load_documents(text, "junk.yaml")
    assert str(caught.value).startswith("junk.yaml")
    assert "\n" not in str(caught.value)


def test_a_twice_given_key_is_named_with_its_path() -> None:
    with pytest.raises(FieldError) as caught:
        load_documents("m: {x: 1}\nspec:\n  list:\n  - a: {b: 1}\n  - a: {b: 1, b: 2}\n")
    assert (caught.value.where.field, caught.value.where.line) == ("spec.list[1].a", 5)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\x00\x01\x02", "is a binary file"),
        (b"a: \xff\xfe", "is not UTF-8 text"),
        (b"x" * (MAX_BYTES + 1), "is larger than 8 MiB"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, raw: bytes, sentence: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(raw)
    with pytest.raises(FileError, match=sentence):
        read_text(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        read_text(tmp_path / "none.yaml")
    with pytest.raises(FileError, match="cannot be read"):
        read_text(tmp_path)


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert load_documents(read_text(path))[0].value == {"a": 1}
