"""Metering a stream: the same bytes however they are cut, usage found, what the client did not ask for left out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plenum.gateway import meter as meters
from plenum.gateway.meter import Meter, usage_of
from plenum.ports.engine import EngineError

TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(['"usage":', "data: [DONE]", "\n\ndata:", '"role":', "usage"]))


def event(said: dict, *, spaced: bool) -> bytes:
    return b"data: " + json.dumps(said, separators=None if spaced else (",", ":")).encode() + b"\n\n"


@st.composite
def streams(draw):
    """A stream as engines send it: the tokens it has, its usage, and its bytes cut anywhere."""
    spaced = draw(st.booleans())
    texts = draw(st.lists(TEXTS, max_size=8))
    null_usage = draw(st.booleans())
    more = {"usage": None} if null_usage else {}
    events = [event({"choices": [{"delta": {"role": "assistant", "content": None}}], **more}, spaced=spaced)]
    events += [event({"choices": [{"delta": {"content": text}}], **more}, spaced=spaced) for text in texts]
    said = {"prompt_tokens": 9, "completion_tokens": len(texts), "prompt_tokens_details": {"cached_tokens": 4}}
    usage = event({"choices": [], "usage": said}, spaced=spaced)
    whole = b"".join([*events, usage, b"data: [DONE]\n\n"])
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return texts, events, usage, pieces


@given(streams(), st.booleans(), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_cutting_and_ends_of_lines_give_the_same_bytes_counts_and_usage(stream, wants_usage, end):
    texts, events, usage, pieces = stream
    pieces = (
        [bytes([byte]) for byte in b"".join(pieces).replace(b"\n", end)]
        if end == b"\r\n"
        else [piece.replace(b"\n", end) for piece in pieces]
    )
    meter = Meter(wants_usage=wants_usage)
    out = b"".join(meter.feed(piece) for piece in pieces) + meter.rest()
    assert out == b"".join([*events, usage if wants_usage else b"", b"data: [DONE]\n\n"])
    assert meter.tokens == len(texts)
    assert meter.done
    assert meter.usage is not None
    assert (meter.usage.prompt_tokens, meter.usage.completion_tokens, meter.usage.cached_tokens) == (9, len(texts), 4)


@given(streams())
def test_what_is_passed_on_ends_with_an_event(stream):
    *_, pieces = stream
    meter = Meter(wants_usage=True)
    for piece in pieces:
        out = meter.feed(piece)
        assert not out or out.endswith(b"\n\n")


def test_usage_in_an_event_with_content_is_kept_for_the_client():
    meter = Meter(wants_usage=False)
    said = event({"choices": [{"text": "a"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}, spaced=False)
    assert meter.feed(said) == said
    assert meter.usage is not None
    assert meter.usage.prompt_tokens == 3
    assert meter.tokens == 1


def test_comments_and_what_cannot_be_read_pass():
    meter = Meter(wants_usage=False)
    for data in (b": still there\n\n", b'data: {"usage": oh\n\n', b'data: {"usage":"text","choices":[]}\n\n'):
        assert meter.feed(data) == data
    assert meter.usage is None


def test_an_event_without_end_is_the_engines_fault(monkeypatch):
    monkeypatch.setattr(meters, "MAX_EVENT_BYTES", 100)
    meter = Meter(wants_usage=False)
    for _ in range(7):
        assert meter.feed(b"data: aaaaaaaa") == b""
    with pytest.raises(EngineError):
        meter.feed(b"data: aaaaaaaa")


def test_an_answer_without_usage_says_none():
    assert usage_of(b'{"usage": 5}') is None


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"usage": 5', b"\xff", b"[" * 100_000, b"<html>", b'{"a": "\xff"}']
)
def test_what_is_no_object_is_no_answer(body):
    with pytest.raises(EngineError):
        usage_of(body)


def test_usage_of_a_whole_answer():
    said = usage_of(b'{"choices":[{"x":1}],"usage":{"prompt_tokens":5,"completion_tokens":null,"total_tokens":5}}')
    assert said is not None
    assert (said.prompt_tokens, said.completion_tokens, said.cached_tokens) == (5, None, 0)


@pytest.mark.parametrize(
    ("delta", "tokens"),
    [
        ({"role": "assistant", "content": " a"}, 1),
        ({"role": "assistant", "content": ""}, 0),
        ({"role": "assistant", "content": None}, 0),
        ({"role": "assistant"}, 0),
        ({"role": "assistant", "content": None, "tool_calls": [{"index": 0}]}, 1),
    ],
)
def test_a_first_event_counts_where_it_has_a_token_beside_its_role(delta, tokens):
    meter = Meter(wants_usage=False)
    meter.feed(event({"choices": [{"index": 0, "delta": delta}]}, spaced=False))
    assert meter.tokens == tokens


def test_what_an_engine_adds_of_its_own_is_left_out_and_no_text_of_it():
    text = r'"system_fingerprint":"b0-unknown", ,"timings":{}'
    said = {"choices": [{"delta": {"content": text}}], "system_fingerprint": "b0-unknown", "object": "chunk"}
    own = {**said, "timings": {"cache_n": 1, "predicted_ms": 2.5}}
    passed = Meter(wants_usage=True).feed(event(own, spaced=False) + event(said, spaced=False))
    assert passed == 2 * event({"choices": said["choices"], "object": "chunk"}, spaced=False)
