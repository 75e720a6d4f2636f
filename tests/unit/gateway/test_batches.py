"""Files and batches through the openai client: each line once, whatever is killed when."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from tests.patience import PATIENCE_S
from tests.unit.gateway.canned import (
    RIVAL,
    SECOND,
    SECRET,
    CannedAnswer,
    CannedDispatch,
    canned_gateway,
    completion,
    echo,
    table,
)

from plenum.gateway.batch_lines import Batch
from plenum.gateway.batches import Batches
from plenum.gateway.files import FileLimits, Files
from plenum.gateway.journal import Journal
from plenum.gateway.request import Ask, RefusedError
from plenum.model.endpoint import Endpoint
from plenum.ports.gateway import Key, Usage


def client(url: str, key: str = SECRET) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=0)


def line(number: int, **more: Any) -> str:
    body = {"model": "chat", "messages": [{"role": "user", "content": f"say {number}"}]}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body} | more)


async def submit(asking: openai.AsyncOpenAI, lines: list[str], endpoint: Any = "/v1/chat/completions") -> Any:
    file = await asking.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return await asking.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"for": "tests"}
    )


async def over(asking: openai.AsyncOpenAI, id: str) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while (batch := await asking.batches.retrieve(id)).status not in (
            "completed",
            "failed",
            "expired",
            "cancelled",
        ):
            await asyncio.sleep(0.02)
    return batch


async def results(asking: openai.AsyncOpenAI, id: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (await asking.files.content(id)).text.splitlines()]


def begun(folder: Path, count: int) -> tuple[Batches, str]:
    """Make a batch that nobody works on."""
    files = Files(folder / "files")
    with files.begin("acme", "in", "batch") as writing:
        writing.write("\n".join(line(n) for n in range(count)).encode())
        file = writing.end()
    batches = Batches(folder / "batches", files)
    said = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": file.id}
    return batches, batches.create(Key(id="k", hash="", tenant="acme"), said).id


def test_a_batch_answers_every_line_in_openais_format(tmp_path: Path) -> None:
    async def answer(ask: Ask) -> CannedAnswer:
        if ask.body["messages"][0]["content"] == "say 2":
            raise RefusedError(400, "invalid_request_error", "context_length_exceeded", "too long")
        return await echo(ask)

    async def go() -> None:
        dispatch = CannedDispatch(answer)
        async with canned_gateway(tmp_path, dispatch) as (url, gateway), client(url) as asking:
            batch = await over(asking, (await submit(asking, [line(n) for n in range(5)])).id)
            assert batch.status == "completed"
            assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
                5,
                4,
                1,
            )
            assert batch.usage.total_tokens == 40
            assert batch.metadata == {"for": "tests"}
            found = {r["custom_id"]: r["response"] for r in await results(asking, batch.output_file_id)}
            assert set(found) == {"c0", "c1", "c3", "c4"}
            assert found["c3"]["status_code"] == 200
            assert found["c3"]["body"]["choices"][0]["message"]["content"] == "echo: say 3"
            (wrong,) = await results(asking, batch.error_file_id)
            assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("c2", 400)
            assert wrong["response"]["body"]["error"]["code"] == "context_length_exceeded"
            assert {ask.tier for ask in dispatch.asked} == {"batch"}
            billed = gateway.journal.pending()
            assert billed
            assert sorted(row.output_tokens for row in billed.rows) == [3, 3, 3, 3]
            assert {row.key for row in billed.rows} == {"key-acme"}

    asyncio.run(go())


def test_a_batch_that_is_put_off_keeps_no_other_waiting(tmp_path: Path) -> None:
    async def answer(ask: Ask) -> CannedAnswer:
        if ask.key.tenant == "acme":
            raise RefusedError(429, "rate_limit_error", "limit.requests", "too many", retry_after_s=60.0)
        return await echo(ask)

    async def go() -> None:
        dispatch = CannedDispatch(answer)
        async with (
            canned_gateway(tmp_path, dispatch, parallel=2) as (url, gateway),
            client(url) as slow,
            client(url, RIVAL) as asking,
        ):
            spec = Endpoint(name="chat", tenant="rival", model="smollm2")
            own = msgspec.structs.replace(table().served[0], spec=spec, uid=2, specs={1: spec})
            gateway.use(msgspec.structs.replace(table(), served=(*table().served, own)))
            await submit(slow, [line(n) for n in range(4)])
            async with asyncio.timeout(PATIENCE_S):
                while len(dispatch.asked) < 2:
                    await asyncio.sleep(0.01)
            batch = await over(asking, (await submit(asking, [line(n) for n in range(4)])).id)
            assert batch.request_counts.completed == 4
            assert len(dispatch.asked) == 6  # no more of the other's lines are begun than have a place

    asyncio.run(go())


def test_a_batch_of_responses(tmp_path: Path) -> None:
    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch()) as (url, _), client(url) as asking:
            path = "/v1/responses"
            lines = [
                line(0, url=path, body={"model": "chat", "input": "Hi"}),
                line(1, url=path, body={"model": "chat"}),
            ]
            batch = await over(asking, (await submit(asking, lines, path)).id)
            (good,) = await results(asking, batch.output_file_id)
            said = good["response"]["body"]
            assert (said["object"], said["output"][0]["content"][0]["text"]) == ("response", "echo: Hi")
            assert (batch.usage.input_tokens, batch.usage.output_tokens) == (7, 3)
            (wrong,) = await results(asking, batch.error_file_id)
            assert (wrong["custom_id"], wrong["response"]["body"]["error"]["param"]) == ("c1", "input")

    asyncio.run(go())


def test_lines_that_are_put_off_come_again_and_those_that_break_have_a_limit(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()

    async def answer(ask: Ask) -> CannedAnswer:
        text = str(ask.body["messages"][0]["content"])
        tries[text] += 1
        if text == "say 0" and tries[text] < 3:
            raise RefusedError(429, "overloaded_error", "admission.deferred", "later", retry_after_s=0.01)
        if text == "say 1":
            return CannedAnswer([b"<html>"])
        return await echo(ask)

    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch(answer)) as (url, _), client(url) as asking:
            batch = await over(asking, (await submit(asking, [line(0), line(1)])).id)
            assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
            assert tries == {"say 0": 3, "say 1": 4}
            (wrong,) = await results(asking, batch.error_file_id)
            assert (wrong["response"]["status_code"], wrong["response"]["body"]["error"]["code"]) == (
                502,
                "engine.answer",
            )

    asyncio.run(go())


WRONG = (
    ([], "batch.empty", 1),
    (["{}"], "line.json", 1),
    ([line(0), "[" * 100_000], "line.json", 2),
    ([line(0), line(0)], "line.custom_id", 2),
    ([line(0, method="GET")], "line.method", 1),
    ([line(0, url="/v1/embeddings")], "line.url", 1),
    ([line(0, body={"model": "chat", "stream": True})], "line.stream", 1),
    ([line(0, body=[])], "line.body", 1),
)


def test_a_file_that_is_no_batch_fails_with_what_is_wrong_where(tmp_path: Path) -> None:
    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch()) as (url, _), client(url) as asking:
            for lines, code, at in WRONG:
                batch = await over(asking, (await submit(asking, lines)).id)
                assert batch.status == "failed"
                assert [(error.code, error.line) for error in batch.errors.data] == [(code, at)]

    asyncio.run(go())


def test_a_cancelled_batch_keeps_what_is_done(tmp_path: Path) -> None:
    first, going = asyncio.Event(), asyncio.Event()

    async def answer(ask: Ask) -> CannedAnswer:
        first.set()
        await going.wait()
        return await echo(ask)

    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch(answer), parallel=2) as (url, _), client(url) as asking:
            batch = await submit(asking, [line(n) for n in range(50)])
            await first.wait()
            assert (await asking.batches.cancel(batch.id)).status == "cancelling"
            going.set()
            batch = await over(asking, batch.id)
            assert batch.status == "cancelled"
            assert 1 <= batch.request_counts.completed <= 3
            assert len(await results(asking, batch.output_file_id)) == batch.request_counts.completed
            with pytest.raises(openai.ConflictError):
                await asking.batches.cancel(batch.id)

    asyncio.run(go())


def test_a_batch_whose_day_is_over_ends_with_what_is_done(tmp_path: Path) -> None:
    later_s = 0.0

    async def answer(ask: Ask) -> CannedAnswer:
        nonlocal later_s
        if ask.body["messages"][0]["content"] != "say 0":
            later_s = 86_401.0
            raise RefusedError(429, "overloaded_error", "admission.deferred", "later", retry_after_s=0.01)
        return await echo(ask)

    async def go() -> None:
        dispatch = CannedDispatch(answer)
        async with (
            canned_gateway(tmp_path, dispatch, parallel=1, now=lambda: time.time() + later_s) as (url, _),
            client(url) as asking,
        ):
            batch = await over(asking, (await submit(asking, [line(n) for n in range(4)])).id)
            assert batch.status == "expired"
            assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 3)
            wrong = await results(asking, batch.error_file_id)
            assert [(each["custom_id"], each["error"]["code"]) for each in wrong] == [
                (f"c{n}", "batch_expired") for n in (1, 2, 3)
            ]

    asyncio.run(go())


def test_a_kill_while_results_become_files_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, id = begun(tmp_path, 2)
    holder = batches.open[id]
    holder.validate()
    (_, first), (_, second) = holder.lines()
    holder.record(1, first, 200, completion("a"), "r1")
    holder.record(2, second, 400, b'{"error": {}}', "r2")
    marked: list[str] = []

    def killed(batch: Batch, status: str) -> None:
        if marked:
            raise InterruptedError
        marked.append(status)
        mark(batch, status)

    mark = batches.mark
    monkeypatch.setattr(batches, "mark", killed)
    with pytest.raises(InterruptedError):
        batches.finalize(holder, "completed")
    files = Files(tmp_path / "files")
    after = Batches(tmp_path / "batches", files)
    after.finalize(after.open[id], "cancelled")
    batch = after.get("acme", id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 1, 1)
    assert len(files.listed("acme", purpose="batch_output")) == 2
    assert b"".join(files.pieces(files.get("acme", batch.output_file_id))).count(b"\n") == 1


def test_files_and_batches_of_another_tenant_are_not_there(tmp_path: Path) -> None:
    async def go() -> None:
        async with (
            canned_gateway(tmp_path, CannedDispatch()) as (url, _),
            client(url) as mine,
            client(url, RIVAL) as theirs,
        ):
            batch = await over(mine, (await submit(mine, [line(0)])).id)
            for ask in (
                theirs.batches.retrieve(batch.id),
                theirs.batches.cancel(batch.id),
                theirs.files.retrieve(batch.input_file_id),
                theirs.files.content(batch.output_file_id),
                theirs.files.delete(batch.output_file_id),
                theirs.batches.create(
                    input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
                ),
            ):
                with pytest.raises(openai.NotFoundError):
                    await ask
            assert [b.id async for b in theirs.batches.list()] == []
            assert [f.id async for f in theirs.files.list()] == []

    asyncio.run(go())


def test_lists_come_in_pages_and_files_are_deleted(tmp_path: Path) -> None:
    async def go() -> None:
        async with canned_gateway(tmp_path, CannedDispatch()) as (url, _), client(url) as asking:
            made = [(await asking.files.create(file=(f"{n}.jsonl", b"{}"), purpose="batch")).id for n in range(5)]
            assert {file.id async for file in asking.files.list(limit=2)} == set(made)
            assert (await asking.files.delete(made[0])).deleted
            assert {file.id async for file in asking.files.list()} == set(made[1:])
            assert (await asking.files.retrieve(made[1])).bytes == 2
            with pytest.raises(openai.BadRequestError, match="limit"):
                await asking.files.list(limit=0)

    asyncio.run(go())


def test_uploads_have_limits(tmp_path: Path) -> None:
    async def go() -> None:
        limits = FileLimits(file_bytes=1_000)
        async with canned_gateway(tmp_path, CannedDispatch(), limits=limits) as (url, _), client(url) as asking:
            with pytest.raises(openai.APIStatusError) as refused:
                await asking.files.create(file=("big", b"x" * 1_001), purpose="batch")
            assert refused.value.status_code == 413
            with pytest.raises(openai.APIStatusError) as refused:
                await asking.files.create(file=("huge", b"x" * 10_000_000), purpose="batch")
            assert refused.value.status_code == 413
            with pytest.raises(openai.BadRequestError, match="purpose"):
                await asking.files.create(file=("a", b"x"), purpose="assistants")
            assert [f.id async for f in asking.files.list()] == []

    asyncio.run(go())


def test_lines_of_a_key_that_was_taken_away_are_not_asked(tmp_path: Path) -> None:
    async def go() -> None:
        async def answer(ask: Ask) -> CannedAnswer:
            table = gateway.inference.directory.table
            gateway.use(msgspec.structs.replace(table, keys=table.keys[1:], version=2))
            return await echo(ask)

        dispatch = CannedDispatch(answer)
        async with canned_gateway(tmp_path, dispatch, parallel=1) as (url, gateway):
            async with client(url) as asking:
                made = await submit(asking, [line(0), line(1)])
            async with client(url, SECOND) as asking:
                batch = await over(asking, made.id)
                assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
                (wrong,) = await results(asking, batch.error_file_id)
                assert wrong["error"]["code"] == "key.gone"
        assert len(dispatch.asked) == 1

    asyncio.run(go())


def test_each_line_is_done_and_billed_once_though_the_gateway_is_killed_again_and_again(tmp_path: Path) -> None:
    """Real SIGKILLs at random moments; what was billed, read from the journals' files, and the results must agree."""
    count = 150
    rng = random.Random(5)
    billed: list[str] = []

    async def first(url: str) -> str:
        async with client(url) as asking:
            return (await submit(asking, [line(n) for n in range(count)])).id

    async def last(url: str, id: str) -> list[dict[str, Any]]:
        async with client(url) as asking:
            batch = await over(asking, id)
            assert batch.request_counts.completed == count
            return await results(asking, batch.output_file_id)

    def start() -> tuple[subprocess.Popen[str], str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.gateway.canned", str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout
        return child, child.stdout.readline().strip()

    def kill(child: subprocess.Popen[str]) -> None:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stdout
        child.stdout.close()

    def written() -> int:
        with suppress(FileNotFoundError):
            return (folder / "output.jsonl").stat().st_size
        return 0

    child, url = start()
    id = asyncio.run(first(url))
    folder = tmp_path / "batches" / id
    for _ in range(4):
        enough = written() + rng.randrange(2_000, 8_000)
        while written() < enough and (folder / "input").exists():  # which goes with the batch's end: a kill may be late
            pass  # busy, so that the kill comes in the middle of a write rather than between
        kill(child)
        child, url = start()
    found = asyncio.run(last(url, id))
    kill(child)
    assert sorted(result["custom_id"] for result in found) == sorted(f"c{n}" for n in range(count))
    batches = Batches(tmp_path / "batches", Files(tmp_path / "files"))
    journal = Journal(tmp_path / "journal", "test", slots=64, settle=batches.settle)
    while (batch := journal.pending()) is not None:
        billed += [row.request.rpartition("-")[0] for row in batch.rows if row.output_tokens]
        journal.acknowledged(batch.number)
    journal.close()
    assert Counter(billed) == Counter(f"{id}-{n}" for n in range(1, count + 1))


def test_a_result_that_was_half_written_is_done_again(tmp_path: Path) -> None:
    batches, id = begun(tmp_path, 3)
    holder = batches.open[id]
    assert holder.validate() == []
    (_, first), (_, second), _ = holder.lines()
    holder.record(1, first, 200, completion("a"), "r1")
    holder.record(2, second, 200, completion("b"), "r2")
    holder.close()
    output = tmp_path / "batches" / id / "output.jsonl"
    os.truncate(output, output.stat().st_size - 5)
    again = Batches(tmp_path / "batches", Files(tmp_path / "files")).open[id]
    again.validate()
    assert again.done == {1}
    assert [number for number, _ in again.lines()] == [2, 3]
    assert again.batch.completed == 1
    assert output.read_bytes().count(b"\n") == 1


def test_what_a_dead_process_left_open_is_billed_by_whether_its_result_is_there(tmp_path: Path) -> None:
    batches, id = begun(tmp_path, 2)
    holder = batches.open[id]
    holder.validate()
    (_, first), _ = holder.lines()
    holder.record(1, first, 200, completion("a"), "r1")
    holder.close()
    batches = Batches(tmp_path / "batches", Files(tmp_path / "files"))

    def settled(request: str) -> str:
        row = Usage(
            request=request,
            at=0.0,
            tenant="acme",
            key="k",
            endpoint="acme/chat",
            model="chat",
            revision=1,
            prompt_tokens=7,
            cached_tokens=0,
            output_tokens=3,
        )
        found = batches.settle(row)
        assert found is None or found.output_tokens == 3
        return found.outcome if found else "nothing"

    assert settled(f"{id}-1-0") == "done"
    assert settled(f"{id}-2-0") == "nothing"
    assert settled("batch_gone-1-0") == "nothing"
    assert settled("req-1") == "interrupted"
