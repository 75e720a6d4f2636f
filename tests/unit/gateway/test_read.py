"""Reading requests: what an engine is sent is what was checked, and what cannot be meant goes no further."""

import json
import math
import tracemalloc

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plenum.gateway.directory import Directory
from plenum.gateway.estimates import Estimates
from plenum.gateway.read import Wishes, cost_bytes, read_ask
from plenum.gateway.request import RefusedError
from plenum.gateway.settings import GatewaySettings
from plenum.model.endpoint import Endpoint
from plenum.ports.engine import CHAT, COMPLETIONS, EMBEDDINGS
from plenum.ports.gateway import Key, Served, Table

KEY = Key(id="k1", hash="", tenant="acme")


def served(tenant: str = "acme", engine="vllm", **more) -> Served:
    return Served(spec=Endpoint(name="chat", tenant=tenant, model="/w", engine=engine, **more), uid=1)


def read(
    body, *, path: str = CHAT, key: Key = KEY, one: Served | None = None, beside: tuple[Served, ...] = (), **wishes
):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    table = Table(version=1, served=(one or served(), *beside), salts={"acme": "pepper"})
    return read_ask(
        raw,
        id="req-1",
        path=path,
        key=key,
        wishes=Wishes(**wishes),
        directory=Directory(table),
        estimates=Estimates(),
        settings=GatewaySettings(),
        now_s=100.0,
    )


def chat(content="hello", **more) -> dict:
    return {"model": "chat", "messages": [{"role": "user", "content": content}], **more}


def part(**said) -> dict:
    return chat([{"type": "text", "text": "look"}, said])


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(chat("a" * 2**19)),
        json.dumps(chat("a" * 2**19 + "😀"), ensure_ascii=False),
        json.dumps(chat("a" * 2**19 + "中")),
        json.dumps(chat("é" * 2**19), ensure_ascii=False),
        json.dumps({"model": "chat", "messages": [chat()["messages"][0]] * 8_000}),
        json.dumps({"model": "chat", "prompt": [30_000] * 100_000}),
        json.dumps({"model": "chat", "prompt": [5] * 100_000}),
    ],
)
def test_a_body_is_counted_as_what_it_takes_once_it_is_read(body: str):
    path, raw = CHAT if "messages" in body else COMPLETIONS, body.encode()
    read(raw, path=path)
    tracemalloc.start()
    read(raw, path=path)
    taken_bytes = len(raw) + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken_bytes <= cost_bytes(raw) <= 2.5 * taken_bytes


def test_a_plain_chat():
    reading = read(chat("a" * 400, max_tokens=32, user="u7"), timeout_s=5.0)
    ask = reading.ask
    assert (ask.id, ask.model, ask.path, ask.tier, ask.session) == ("req-1", "chat", CHAT, "interactive", "u7")
    assert ask.prompt == "user\n" + "a" * 400
    assert ask.prompt_tokens == pytest.approx(101, abs=1)
    assert ask.output_tokens == 32
    assert ask.deadline_s == 105.0
    assert not ask.stream
    assert msgspec.json.decode(ask.raw) == ask.body


def test_usage_is_always_asked_for_and_remembered_who_wanted_it():
    for given_options, wants in ((None, False), ({"include_usage": True}, True), ({"include_usage": False}, False)):
        body = chat(stream=True) | ({"stream_options": given_options} if given_options else {})
        reading = read(body)
        assert reading.wants_usage is wants
        assert reading.ask.body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in read(chat(stream_options={"include_usage": True})).ask.body


def test_each_tenant_has_its_salt_where_engines_take_one():
    assert read(chat()).ask.body["cache_salt"] == "pepper"
    assert "cache_salt" not in read(chat(), one=served(engine="llamacpp")).ask.body


def test_an_engine_without_salts_reuses_no_prompts_where_tenants_share_it():
    mine = served(engine="llamacpp", attached=("http://127.0.0.1:9000",))
    for tenant, url, shared in (
        ("rival", "http://localhost:9000/", True),
        ("rival", "http://localhost:9001", False),
        ("acme", "http://127.0.0.1:9000", False),
    ):
        beside = Endpoint(name="m", tenant=tenant, model="/w", engine="llamacpp", attached=(url,))
        body = read(chat(), one=mine, beside=(Served(spec=beside, uid=2),)).ask.body
        assert body.get("cache_prompt", True) != shared


def test_of_a_name_given_twice_the_engine_sees_the_one_that_was_checked():
    raw = b'{"model":"other","model":"chat","messages":[{"role":"user","content":"x","content":"y"}],"n":9999,"n":1}'
    ask = read(raw).ask
    assert ask.raw.count(b'"model"') == 1
    assert msgspec.json.decode(ask.raw)["messages"][0]["content"] == "y"


def test_who_can_wait_says_so_and_nobody_can_say_the_contrary():
    batch = Key(id="k2", hash="", tenant="acme", tier="batch")
    assert read(chat(service_tier="flex")).ask.tier == "batch"
    assert read(chat(), tier="batch").ask.tier == "batch"
    assert read(chat(service_tier="priority"), key=batch).ask.tier == "batch"
    assert "service_tier" not in read(chat(service_tier="flex")).ask.body


def test_another_tenants_model_looks_like_one_that_is_not():
    refusals = []
    for one in (served(tenant="other"), served(served_as="x")):
        with pytest.raises(RefusedError) as refused:
            read(chat(), one=one)
        refusals.append((refused.value.status, refused.value.code, refused.value.sentence))
    with pytest.raises(RefusedError) as refused:
        read(chat(), key=Key(id="k", hash="", tenant="acme", models=("another",)))
    refusals.append((refused.value.status, refused.value.code, refused.value.sentence))
    assert len(set(refusals)) == 1
    assert refusals[0][:2] == (404, "model_not_found")


def test_adapters_are_models_too():
    one = served(adapters=(("polite", "hf://x"),))
    assert read(chat() | {"model": "polite"}, one=one).ask.model == "polite"


def test_choices_multiply_what_is_set_aside():
    assert read(chat(max_tokens=10, n=4)).ask.output_tokens == 40
    assert read({"model": "chat", "prompt": ["a", "b"], "max_tokens": 5}, path=COMPLETIONS).ask.output_tokens == 10


def test_prompts_as_tokens_are_counted():
    ask = read({"model": "chat", "prompt": [1, 2, 3], "max_tokens": 0}, path=COMPLETIONS).ask
    assert (ask.prompt, ask.prompt_tokens) == ("1,2,3", 3)
    ask = read({"model": "chat", "input": [[1, 2], [3]]}, path=EMBEDDINGS).ask
    assert (ask.prompt_tokens, ask.output_tokens) == (3, 0)
    with pytest.raises(RefusedError) as refused:
        read({"model": "chat", "prompt": [1] * 101}, path=COMPLETIONS, one=served(context_tokens=100))
    assert refused.value.code == "context_length_exceeded"


def test_inline_images_pass_and_tell_prompts_apart():
    first, second = (
        read(part(type="image_url", image_url={"url": f"data:image/png;base64,{each}", "detail": "low"})).ask
        for each in ("AAAA", "BBBB")
    )
    assert first.prompt != second.prompt
    assert first.prompt_tokens > 500
    read(part(type="input_audio", input_audio={"data": "AAAA", "format": "wav"}))


URLS = (
    "http://169.254.169.254/latest/meta-data",
    "https://example.org/a.png",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "//evil/x",
    "/etc/passwd",
    " http://x",
    "gopher://x",
    "",
    None,
    7,
)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url"])
def test_nothing_is_fetched_for_a_request(kind, url):
    for said in ({"url": url}, url):
        with pytest.raises(RefusedError) as refused:
            read(part(type=kind, **{kind: said}))
        assert refused.value.status == 400
        assert refused.value.field.startswith("messages[0].content[1]")


@pytest.mark.parametrize(
    "said",
    [
        {"type": "text", "text": "x", "image_url": {"url": "http://x"}},
        {"type": "image_url", "image_url": {"url": "data:,x", "path": "/etc/passwd"}},
        {"type": "input_audio", "input_audio": {"data": "x", "url": "http://x"}},
        {"type": "input_file", "file_url": "http://x"},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "image_embeds", "image_embeds": "x"},
        {"image_url": "http://x"},
        {"type": ["text"], "text": "x"},
        {"type": "text", "text": {"url": "http://x"}},
        "text",
        None,
    ],
)
def test_parts_hold_what_their_type_says_and_nothing_beside(said):
    body = chat()
    body["messages"][0]["content"] = [said]
    with pytest.raises(RefusedError) as refused:
        read(body)
    assert refused.value.status == 400


RESERVED = (
    "kv_transfer_params", "cache_salt", "id_slot", "bootstrap_host", "bootstrap_room", "priority", "prompt_embeds", "lora_path",
    "chat_template", "request_id", "cache_prompt",
)  # fmt: skip


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("value", [None, 1, {"a": 1}])
def test_what_reaches_into_engines_is_the_gateways_alone(name, value):
    with pytest.raises(RefusedError) as refused:
        read(chat(**{name: value}))
    assert refused.value.code == "request.field_reserved"
    assert refused.value.field == name


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "request.json"),
        (b"{", "request.json"),
        (b"[]", "request.json"),
        (b"null", "request.json"),
        (b"\xff\xfe", "request.json"),
        (b'{"model":"\xff"}', "request.encoding"),
        (b'{"model":"\\ud800"}', "request.json"),
        (b'{"model":NaN}', "request.json"),
        (b'{"model":1e999}', "request.json"),
        (b'{"model":' + b"9" * 5_000 + b"}", "request.json"),
        (b"[" * 100_000, "request.too_nested"),
        (b'{"a":' * 5_000, "request.too_nested"),
        (b"[" + b"[]," * 300_000 + b"[]]", "request.too_nested"),
        (b'{"model":"chat","tools":' + b"[" * 100 + b"]" * 100 + b"}", "request.too_nested"),
    ],
)
def test_bytes_that_are_no_request(body, code):
    with pytest.raises(RefusedError) as refused:
        read(body)
    assert (refused.value.code, refused.value.status) == (code, 400)


@pytest.mark.parametrize(
    "more",
    [
        {"max_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": 10**12},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"max_tokens": "9"},
        {"n": 0},
        {"n": 9},
        {"n": 128},
        {"temperature": -0.1},
        {"temperature": "hot"},
        {"top_p": 2},
        {"stop": ["x"] * 17},
        {"stop": [""]},
        {"stop": 5},
        {"logit_bias": {"5": 101}},
        {"logit_bias": {"5": "x"}},
        {"logit_bias": [1]},
        {"stream": 1},
        {"stream": "true"},
        {"stream_options": {"continuous_usage_stats": True}},
        {"stream_options": []},
        {"tools": "x"},
        {"tools": [{}] * 257},
        {"seed": 2**70},
        {"user": "u" * 257},
        {"chat_template_kwargs": {"tokenize": True}},
        {"no_such_field": 1},
        {"messages": []},
        {"messages": {}},
        {"messages": None},
        {"messages": [{"role": "root", "content": "x"}]},
        {"messages": [{"role": ["user"], "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": "x", "prefix": True}]},
        {"messages": ["x"]},
        {"messages": [{"role": "user", "content": "x"}] * 8_193},
        {"model": ""},
        {"model": None},
        {"model": ["chat"]},
        {"model": "chat\r\nx-evil: 1"},
        {"model": "m" * 257},
    ],
)
def test_values_that_cannot_be_meant(more):
    with pytest.raises(RefusedError) as refused:
        read(chat(**more))
    assert refused.value.status == 400
    assert refused.value.field


@pytest.mark.parametrize(("path", "field"), [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
@pytest.mark.parametrize(
    "value",
    [None, 5, [], {}, [[]], [""] * 2_049, ["a", 1], [1, "a"], [1, -1], [1, 2**31], [1.5], [[1], "a"], [[1, None]]],
)
def test_prompts_that_are_neither_texts_nor_tokens(path, field, value):
    with pytest.raises(RefusedError) as refused:
        read({"model": "chat", field: value}, path=path)
    assert (refused.value.status, refused.value.field) == (400, field)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        "messages",
        "prompt",
        "input",
        "max_tokens",
        "stop",
        "tools",
        "n",
        "stream",
        "stream_options",
        "logit_bias",
        "user",
        "temperature",
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS]), st.dictionaries(NAMES, ANY, max_size=5), ANY)
def test_whatever_it_is_it_is_read_or_refused(path, body, message):
    """No input but is an ``Ask`` that an engine can be sent, or a refusal with a code."""
    if path == CHAT and isinstance(message, (dict, list)):
        body.setdefault("messages", [{"role": "user", "content": message}])
    reading, refused = None, None
    try:
        reading = read(json.dumps({"model": "chat", **body}).encode(), path=path)
    except RefusedError as error:
        refused = error
    if reading is None:
        assert refused is not None
        assert refused.status in (400, 413)
        assert refused.code
        assert refused.sentence.isprintable()
        return
    ask = reading.ask
    assert ask.prompt_tokens >= 1
    assert math.isfinite(ask.deadline_s)
    assert msgspec.json.decode(ask.raw) == ask.body


def test_estimates_learn_what_a_models_tokens_are():
    estimates = Estimates()
    assert estimates.tokens("acme/chat", 400) == 100
    for _ in range(200):
        estimates.learn("acme/chat", 600, 100)
    assert estimates.tokens("acme/chat", 600) == pytest.approx(100, abs=1)
    estimates.learn("acme/chat", 600, 0)
    assert estimates.tokens("other/chat", 400) == 100
    assert estimates.tokens("acme/chat", 0) == 1
