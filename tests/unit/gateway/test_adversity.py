"""What engines, clients and disks do at their worst: nothing leaks, nothing escapes, and the next request is served."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.patience import PATIENCE_S
from tests.unit.gateway.canned import SECRET, CannedAnswer, CannedDispatch, canned_gateway, completion, table
from tests.unit.gateway.scripted import Script, ScriptedEngine, replica, run, stage

from plenum.adapters.engines.kv_events import Stored
from plenum.adapters.engines.llamacpp import LlamaCpp
from plenum.bootstrap.gateway import last_address
from plenum.gateway.batch_lines import Batch, Line, Open
from plenum.gateway.connections import Guard
from plenum.gateway.dispatch import Dispatcher
from plenum.gateway.files import Files
from plenum.gateway.journal import Journal
from plenum.gateway.link import Link, kept_table
from plenum.gateway.moderation import MAX_PROMPT_CHARACTERS, Moderation
from plenum.gateway.prompts import read_texts
from plenum.gateway.request import Ask, RefusedError
from plenum.gateway.rows import HEAD_BYTES, OPEN, ROW_BYTES
from plenum.gateway.settings import GatewaySettings, ModerationSettings
from plenum.model.endpoint import DECODE, PREFILL, Endpoint, Pool
from plenum.model.errors import FieldError
from plenum.ports.engine import EngineError, HandleError
from plenum.ports.gateway import Key, Replica, Served, Table, Usage

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}


def asking(url: str, secret: str = SECRET) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {secret}"}, timeout=30.0)


@pytest.mark.parametrize("tokens", [-5, 2**63, 10**30])
def test_usage_that_cannot_be_is_not_billed_and_takes_no_place_for_ever(tmp_path: Path, tokens: int) -> None:
    async def lie(ask: Ask) -> CannedAnswer:
        return CannedAnswer([completion("x", prompt_tokens=tokens, output_tokens=tokens)])

    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch(lie)) as (url, gateway), asking(url) as client:
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
            assert gateway.journal.in_flight == 0
            batch = gateway.journal.pending()
            assert batch is not None
            assert [0 <= row.prompt_tokens < 100 and row.output_tokens == 0 for row in batch.rows] == [True]

    asyncio.run(go())


def test_a_bill_that_fails_gives_back_what_the_request_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []

    class Leaving(CannedDispatch):
        def send(self, ask: Ask) -> Any:
            inner = super().send(ask)

            class Context:
                async def __aenter__(self) -> Any:
                    return await inner.__aenter__()

                async def __aexit__(self, *error: Any) -> None:
                    left.append(ask.id)
                    await inner.__aexit__(*error)

            return Context()

    async def go() -> None:
        async with canned_gateway(tmp_path, Leaving()) as (url, gateway), asking(url) as client:
            found = table()
            keys = tuple(Key(id=k.id, hash=k.hash, tenant=k.tenant, max_parallel=1) for k in found.keys)
            gateway.use(Table(version=2, served=found.served, keys=keys))
            with monkeypatch.context() as patch:
                patch.setattr(Journal, "bill", lambda *_: (_ for _ in ()).throw(ValueError("no")))
                assert "gateway.fault" in (await client.post("/v1/chat/completions", json=CHAT)).text
            assert len(left) == 1
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200

    asyncio.run(go())


def test_an_error_in_a_stream_that_began_well_is_the_engines_failure(tmp_path: Path) -> None:
    async def fail(ask: Ask) -> CannedAnswer:
        said = (
            b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"error": {"message": "dead"}}\n\ndata: [DONE]\n\n'
        )
        return CannedAnswer([said], content_type="text/event-stream")

    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch(fail)) as (url, gateway), asking(url) as client:
            text = (await client.post("/v1/chat/completions", json=CHAT | {"stream": True})).text
            assert text.count('"error"') == 1
            batch = gateway.journal.pending()
            assert batch is not None
            assert [(row.outcome, row.output_tokens) for row in batch.rows] == [("broken", 1)]

    asyncio.run(go())


def test_streams_that_break_without_a_word_count_as_failed_and_redirections_are_not_answers():
    async def work():
        async with stage({"a": Script()}) as on:
            await on.take(on.ask(), outcome="broken")
            assert on.dispatcher.loads().pools[0].failed == 1
        async with stage({"a": Script(status=302), "b": Script()}) as on:
            assert [(await on.take(on.ask()))[0] for _ in range(4)] == ["b"] * 4

    run(work())


def test_a_key_is_served_though_others_guess_behind_the_same_proxy(tmp_path: Path) -> None:
    async def go() -> None:
        settings = GatewaySettings(failures_per_minute=3)
        async with canned_gateway(tmp_path, CannedDispatch(), settings=settings) as (url, _):
            async with asking(url, "sk-guess") as guessing:
                assert [(await guessing.get("/v1/models")).status_code for _ in range(5)] == [401, 401, 401, 429, 429]
            async with asking(url) as client:
                assert (await client.get("/v1/models")).status_code == 200

    asyncio.run(go())


def test_an_address_that_asks_for_too_much_is_refused_not_a_fault(tmp_path: Path) -> None:
    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch()) as (url, _), asking(url) as client:
            assert (await client.get("/v1/files?" + "a=1&" * 40)).status_code == 400

    asyncio.run(go())


def test_a_cancelled_prefill_leaves_its_replica_to_be_tried_again():
    spec = Endpoint(
        name="m",
        model="m",
        engine="emulated",
        pools=(Pool(name=PREFILL), Pool(name=DECODE)),
        prefill_threshold_tokens=9,
    )

    async def work():
        scripts = {"p": Script(handoff=True, prefill_s=50.0), "d": Script(handoff=True)}
        async with stage(scripts, spec, (replica("p", pool=PREFILL), replica("d", pool=DECODE))) as on:
            await asyncio.sleep(0.1)
            (target,) = on.dispatcher._fleet.groups("default/m")[1].prefilling
            target.breaker.open(on.now())
            await asyncio.sleep(5.0)
            trying = asyncio.create_task(on.take(on.ask(prompt_tokens=800)))
            await asyncio.sleep(1.0)
            assert len(on.engines["p"].prefilled) == 1
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
            assert target.own == 0
            assert target.breaker.allows(on.now())

    run(work())


def test_a_replica_whose_address_for_handoffs_is_gone_still_answers():
    spec = Endpoint(
        name="m",
        model="m",
        engine="emulated",
        pools=(Pool(name=PREFILL), Pool(name=DECODE)),
        prefill_threshold_tokens=9,
    )

    @asynccontextmanager
    async def gone(*_: Any):
        raise EngineError("connection refused")
        yield

    async def work():
        scripts = {"p": Script(handoff=True), "d": Script(handoff=True)}
        async with stage(scripts, spec, (replica("p", pool=PREFILL), replica("d", pool=DECODE))) as on:
            await asyncio.sleep(0.1)
            on.engines["d"].decode = gone  # type: ignore[method-assign]
            served_by, chunks = await on.take(on.ask(prompt_tokens=800))
            assert (served_by, len(chunks)) == ("d", 10)
            assert len(on.engines["p"].prefilled) == 1

    run(work())


@pytest.mark.parametrize("said", [{}, {"data": []}, {"data": [5]}, {"data": [{"tags": 7}]}, []])
def test_a_server_that_tells_nonsense_of_itself_is_an_engine_that_failed(said: Any) -> None:
    async def go() -> None:
        engine = LlamaCpp("http://127.0.0.1:9")

        async def ask_json(*_: Any, **__: Any) -> Any:
            return said

        engine.ask_json = ask_json  # type: ignore[method-assign]
        with pytest.raises(EngineError):
            await engine.learn()
        engine.handoff_url = "nowhere"
        with pytest.raises(HandleError):
            await engine.handoff_wire()

    asyncio.run(go())


def test_an_endpoint_that_cannot_be_reached_keeps_no_news_from_the_others():
    async def work():
        def connect(which: Replica, key: str) -> ScriptedEngine:
            if which.run == "odd":
                raise FieldError("url", "no address")
            return ScriptedEngine(which.url, Script())

        served = tuple(
            Served(
                spec=Endpoint(name=name, model=name, engine="emulated"),
                uid=1,
                replicas=(replica(run_),),
                revisions={1: 1.0},
            )
            for name, run_ in (("a", "odd"), ("b", "good"))
        )
        async with Dispatcher("g", connect, now=asyncio.get_running_loop().time) as dispatcher:
            dispatcher.update(Table(version=1, served=served))
            assert [t.replica.run for t in dispatcher._fleet.groups("default/b")[1].targets] == ["good"]

    run(work())


def test_an_engine_that_tells_nonsense_of_itself_is_asked_again():
    async def work():
        async with stage({"a": Script()}) as on:
            engine, asked = on.engines["a"], []

            async def start() -> None:
                asked.append(1)
                if len(asked) < 3:
                    raise KeyError("data")

            engine.start = start  # type: ignore[method-assign]
            await asyncio.sleep(10.0)
            assert len(asked) == 3

    run(work())


def test_an_engine_that_tells_nonsense_of_a_prompts_tokens_is_asked_all_the_same():
    async def work():
        async with stage({"a": Script()}) as on:

            async def tokenize(text: str) -> tuple[int, ...]:
                raise KeyError("tokens")

            on.engines["a"].tokenize = tokenize  # type: ignore[method-assign]
            on.dispatcher._fleet.groups("default/m")[1].kv_index.take(
                "a", [Stored(blocks=(1,), parent=None, tokens=(1, 2, 3, 4), block_tokens=4, medium="GPU")]
            )
            assert (await on.take(on.ask()))[0] == "a"

    run(work())


def test_the_link_outlives_a_lack_of_open_files() -> None:
    async def go() -> None:
        link, tried = object.__new__(Link), []

        async def work() -> bool:
            tried.append(1)
            if len(tried) == 1:
                raise OSError(24, "Too many open files")
            raise asyncio.CancelledError

        link._control = type("Control", (), {"server": "here"})()  # type: ignore[assignment]
        with pytest.raises(asyncio.CancelledError):
            await link._forever(work, 0.0)
        assert len(tried) == 2

    asyncio.run(go())


def test_what_engines_call_their_refusals_is_told_and_neither_counted_nor_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def refuse(ask: Ask) -> CannedAnswer:
        said = {"message": "no", "code": f"code-{ask.body['user']}", "param": f"x\nERROR {ask.body['user']}"}
        return CannedAnswer([json.dumps({"error": said}).encode()], status=400)

    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch(refuse)) as (url, gateway), asking(url) as client:
            for user in ("one", "two"):
                told = (await client.post("/v1/chat/completions", json=CHAT | {"user": user})).json()["error"]
                assert (told["code"], told["param"]) == (f"code-{user}", None)
            counted = gateway.measures.exposition().decode()
            assert 'refusals_total{code="engine.refused"} 2.0' in counted
            assert "code-" not in counted + caplog.text

    asyncio.run(go())


def test_a_refusal_that_repeats_a_long_prompt_is_a_refusal(tmp_path: Path) -> None:
    async def refuse(ask: Ask) -> CannedAnswer:
        return CannedAnswer([b'{"error": {"message": "', b"x" * 100_000, b'"}}'], status=400)

    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch(refuse)) as (url, _), asking(url) as client:
            told = await client.post("/v1/chat/completions", json=CHAT)
            assert (told.status_code, told.json()["error"]["code"]) == (400, "engine.refused")

    asyncio.run(go())


def test_damaged_descriptions_do_not_keep_the_gateway_from_starting(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with files.begin("acme", "in", "batch") as writing:
        kept = writing.end()
    about = files.path(kept).parent / "about.json"
    about.write_bytes(about.read_bytes().replace(b"acme", b"acm\xff"))
    assert Files(tmp_path).listed("acme") == []
    for name in ("table.json", "address.json"):
        (tmp_path / name).write_bytes(b'{"version":1,"engine_secret":"\xff","url":"\xff"}')
    assert kept_table(tmp_path) is None
    assert last_address(tmp_path) is None


def test_offers_to_change_the_protocol_that_are_pipelined_end_the_connection_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    parse = Guard._parse
    monkeypatch.setattr(Guard, "_parse", lambda self, data: (parsed.append(len(data)), parse(self, data))[1])

    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch()) as (url, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * 500)
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
        assert len(parsed) < 10

    asyncio.run(go())


def test_a_damaged_open_row_does_not_keep_the_gateway_from_starting(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "g", slots=4)
    fields = {"tenant": "t", "key": "k", "endpoint": "t/e", "model": "m", "revision": 1, "at": 1.0}
    for name in ("a", "b", "c"):
        usage = Usage(request=name, prompt_tokens=1, cached_tokens=0, output_tokens=1, **fields)
        journal.claim().begin(usage)
    journal.close()
    with (tmp_path / "slots").open("r+b") as file:
        file.seek(HEAD_BYTES)
        file.write(bytes([OPEN, 200]))  # an outcome that there is not
        file.seek(HEAD_BYTES + ROW_BYTES)
        file.write(bytes([OPEN]) + b"\xff" * (ROW_BYTES - 1))
    journal = Journal(tmp_path, "g", slots=4)
    batch = journal.pending()
    assert batch is not None
    assert [row.request for row in batch.rows] == ["c"]
    assert journal.in_flight == 0
    journal.close()


def lines(*texts: str) -> bytes:
    said = [
        {"custom_id": t, "method": "POST", "url": "/v1/chat/completions", "body": CHAT | {"user": t}} for t in texts
    ]
    return "\n".join(map(json.dumps, said)).encode()


@pytest.mark.parametrize("answer", [b'{"choices": "\xff"}', b'{"choices": [1e400]}'])
def test_answers_of_a_batch_that_cannot_be_read_stop_neither_it_nor_others(
    tmp_path: Path, monkeypatch, answer: bytes
) -> None:
    monkeypatch.setattr("plenum.gateway.batch_runner.MAX_ATTEMPTS", 1)

    async def odd(ask: Ask) -> CannedAnswer:
        return CannedAnswer([answer if ask.body["user"] == "odd" else completion("good")])

    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch(odd)) as (url, _), asking(url) as client:
            form = {"files": {"file": ("in.jsonl", lines("odd", "good"))}, "data": {"purpose": "batch"}}
            file = (await client.post("/v1/files", **form)).json()["id"]
            said = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            id = (await client.post("/v1/batches", json=said)).json()["id"]
            async with asyncio.timeout(PATIENCE_S):
                while (batch := (await client.get(f"/v1/batches/{id}")).json())["status"] != "completed":
                    await asyncio.sleep(0.02)
            assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}

    asyncio.run(go())


def test_half_a_result_on_a_full_disk_spoils_no_other(tmp_path: Path) -> None:
    batch = Batch(id="batch_1", tenant="t", key="k", endpoint="e", input_file_id="f", created_at=0, expires_at=1)
    holder = Open(batch, tmp_path)
    line = Line(custom_id="c", method="POST", url="e", body=b"{}")  # type: ignore[arg-type]
    holder.give_up(1, line, "a", "b")
    stream = holder._files["errors"]

    class Full:
        def fileno(self) -> int:
            return stream.fileno()

        def write(self, data: Any) -> int:
            if self.wrote:
                raise OSError(28, "No space left on device")
            self.wrote = True
            return os.write(stream.fileno(), bytes(data[:5]))

        wrote = False

    holder._files["errors"] = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="space"):
        holder.give_up(2, line, "a", "b")
    holder._files["errors"] = stream
    holder.give_up(3, line, "a", "b")
    holder.close()
    assert [json.loads(text)["id"] for text in (tmp_path / "errors.jsonl").read_text().splitlines()] == [
        "batch_req_1",
        "batch_req_3",
    ]


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        (["fine", "bad"], "moderation.flagged"),
        ("x" * MAX_PROMPT_CHARACTERS + "bad", "moderation.flagged"),
        ([98, 97, 100], "moderation.tokens"),
        ([[98, 97, 100]], "moderation.tokens"),
    ],
)
def test_no_part_of_a_prompt_passes_moderation_unread(prompt: Any, code: str) -> None:
    async def judge(tenant: str, text: str) -> tuple[str, ...]:
        return ("violence",) if "bad" in text else ()

    async def go() -> None:
        moderation = Moderation(ModerationSettings(url="http://127.0.0.1:9"), judge)
        spec = Endpoint(name="m", model="m")
        key = Key(id="k", hash=hashlib.sha256(b"").hexdigest(), tenant="default")
        fields: dict[str, Any] = {"id": "1", "key": key, "served": Served(spec=spec, uid=1), "path": "/v1/completions"}
        ask = Ask(body={"prompt": prompt}, raw=b"", model="m", prompt=read_texts(prompt, "prompt").text, **fields)
        with pytest.raises(RefusedError) as refused:
            await moderation.check(ask)
        assert refused.value.code == code

    asyncio.run(go())
