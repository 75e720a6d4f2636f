"""Multipart bodies, read in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plenum.gateway.multipart import MAX_PARTS, Reader, boundary_of
from plenum.gateway.request import RefusedError

BOUNDARY = b"b0undary"


def body(*parts: tuple[str, bytes]) -> bytes:
    pieces = [
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (BOUNDARY, head.encode(), data)
        for head, data in parts
    ]
    return b"".join(pieces) + b"--%b--\r\n" % BOUNDARY


def read(data: bytes, cuts: list[int]) -> tuple[dict[tuple[str, str], bytes], bool]:
    reader = Reader(BOUNDARY)
    found: dict[tuple[str, str], bytes] = {}
    closed: list[tuple[str, str]] = []
    begin = 0
    for cut in [*sorted(c % (len(data) + 1) for c in cuts), len(data)]:
        for piece in reader.feed(data[begin:cut]):
            key = (piece.name, piece.filename)
            assert piece.first == (key not in found)
            assert key not in closed
            found[key] = found.get(key, b"") + piece.data
            if piece.last:
                closed.append(key)
        begin = cut
    assert closed == list(found)
    return found, reader.over


content = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"\r\n", b"--", BOUNDARY, b"\r", b"\n", b"-", b"x"]), max_size=8).map(b"".join),
).filter(lambda data: b"\r\n--" + BOUNDARY not in b"\r\n" + data + b"\r\n")


@given(content, content, st.lists(st.integers(0, 1000), max_size=12))
def test_fields_come_out_as_they_went_in_however_they_are_cut(first: bytes, second: bytes, cuts: list[int]) -> None:
    found, over = read(body(('name="purpose"', first), ('name="file"; filename="a.jsonl"', second)), cuts)
    assert over
    assert found == {("purpose", ""): first, ("file", "a.jsonl"): second}


def test_names_lose_quotes_and_what_no_name_has() -> None:
    found, _ = read(body(('name="file"; filename="a\\"b\x01.jsonl"', b"x")), [])
    assert found == {("file", 'a"b.jsonl'): b"x"}


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 10_000,
        b"--" + BOUNDARY + b"\r\n" + b"y" * 10_000,
        b"--" + BOUNDARY + b"\r\nContent-Type: text/plain\r\n\r\nx\r\n",
        body(*[('name="a"', b"")] * (MAX_PARTS + 1)),
    ],
    ids=["no boundary", "endless head", "no name", "too many parts"],
)
def test_what_is_no_form_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        Reader(BOUNDARY).feed(data)


def test_a_body_that_breaks_off_is_not_over() -> None:
    whole = body(('name="file"', b"data"))
    for cut in range(len(whole) - 4):
        reader = Reader(BOUNDARY)
        reader.feed(whole[:cut])
        assert not reader.over


def test_the_boundary_is_found_in_the_content_type() -> None:
    assert boundary_of(b'multipart/form-data; boundary="b0undary"') == BOUNDARY
    assert boundary_of(b"Multipart/Form-Data; charset=utf-8; boundary=b0undary") == BOUNDARY
    for wrong in (b"application/json", b"multipart/form-data", b"multipart/form-data; boundary=" + b"x" * 71):
        with pytest.raises(RefusedError):
            boundary_of(wrong)
