"""``plenum bench``: against a small server, with the prediction beside and the point that calibration takes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from tests.patience import PATIENCE_S
from tests.unit.adapters.load.openai_server import TEMPLATE_TOKENS, openai_server

from plenum.adapters.measurements import Given, read_measurements
from plenum.cli.bench import command
from plenum.cli.bench_target import _hardware, _promises, check_up
from plenum.cli.exits import CONFLICT, exit_code
from plenum.model.errors import PlenumError


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    begun, over = threading.Event(), asyncio.Event()
    told: dict[str, str] = {}
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with openai_server(_deliberate) as (url, _):
            told["url"] = url
            begun.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert begun.wait(PATIENCE_S)
    yield told["url"]
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


WHOLE_TOKENS = 7
"""Who asks for so many gets them in one piece."""


async def _deliberate(_: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
    """Take far longer over long prompts than a busy machine does, and than anybody would predict."""
    prompt = body["messages"][0]["content"]
    if len(prompt) > 1_000:
        await asyncio.sleep(0.5)
    if body["max_tokens"] != WHOLE_TOKENS:
        return None
    usage = {"prompt_tokens": len(prompt.split()) + TEMPLATE_TOKENS, "completion_tokens": WHOLE_TOKENS}
    word = {"choices": [{"delta": {"content": "w "}}]}
    said = "".join(
        f"data: {json.dumps(each)}\n\n" for each in (*[word] * WHOLE_TOKENS, {"choices": [], "usage": usage})
    )
    return web.Response(text=said + "data: [DONE]\n\n", content_type="text/event-stream")


def bench(url: str, *args: str) -> Result:
    return CliRunner().invoke(command, ["chat", "--url", url, "--duration", "1s", *args])


def test_figures_are_told_to_people_and_programs(url: str) -> None:
    shown = bench(url, "--rps", "20", "--isl", "50", "--osl", "5", "--slo", "ttft-p99=30s")
    assert shown.exit_code == 0, shown.output
    assert "50 prompt tokens" in shown.output
    assert "time to first token" in shown.output
    assert "100.0 % of all kept every promise" in shown.output
    few = bench(url, "--rps", "20", "--isl", "50", "--osl", "5", "--limit", "2")
    assert ("2 of 2 served" in few.output, "offered" in few.output) == (True, False), few.output
    assert "2 short requests told" in shown.output
    assert "nothing is promised" in bench(url, "--rps", "20", "--isl", "50", "--osl", "5").output
    plain = bench(url, "--rps", "20", "--isl", "50", "--osl", "5", "-o", "json")
    found = json.loads(plain.output)
    assert found["requests"] == found["served"] > 5
    assert found["exact_prompts"] == 1
    assert (found["isl"], found["osl"]) == (50, 5)
    assert found["ttft_s"]["p50"] <= found["ttft_s"]["p99"]
    assert (found["prediction"], found["slo_attained"]) == (None, None)


def test_a_promise_that_is_broken_is_the_exit_code(url: str) -> None:
    assert bench(url, "--rps", "20", "--isl", "50", "--osl", "5", "--slo", "ttft-p99=0.000001s").exit_code == 1


def test_the_prediction_stands_beside_and_the_point_is_one_that_calibrate_reads(url: str, tmp_path: Path) -> None:
    points, calibration, plot = (tmp_path / name for name in ("points.csv", "mine.json", "plot.png"))
    described = ("--model", "Llama-3.1-8B", "--hardware", "H100", "--replicas", "2")
    for _ in range(2):
        done = bench(
            url, "--rps", "20", "--isl", "400", "--osl", "5", *described, "--measurements", str(points), "-o", "json"
        )
        assert done.exit_code == 0, done.output
    beside = json.loads(done.output)["prediction"]
    assert beside["replicas"] == 2
    for name in ("ttft", "tpot"):
        line = beside[name]
        assert line["predicted_low_s"] < line["predicted_s"] < line["predicted_high_s"]
        assert line["low_s"] <= line["measured_s"] <= line["high_s"]
        assert line["ratio"] == pytest.approx(line["measured_s"] / line["predicted_s"])
    read = read_measurements(points, Given())
    assert len(read) == 2
    assert all(point.stated for point in read)
    assert (read[0].model, read[0].isl, read[0].osl) == ("Llama-3.1-8B", 400, 5)
    assert read[0].workers
    assert read[0].workers.count == 2
    done = bench(
        url, "--rps", "20", "--isl", "400", "--osl", "5", *described,
        "--measurements", str(points), "--calibrate", str(calibration), "--plot", str(plot),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    # Fitted to what was measured, the prediction comes nearer to it.
    again = bench(
        url, "--rps", "20", "--isl", "400", "--osl", "5", *described, "--calibration", str(calibration), "-o", "json"
    )
    after = json.loads(again.output)["prediction"]
    measured_s = median(point.ttft_s for point in read_measurements(points, Given()))
    assert abs(after["ttft"]["predicted_s"] - measured_s) < abs(beside["ttft"]["predicted_s"] - measured_s)


def test_answers_in_one_piece_tell_nothing_of_the_time_between_tokens(url: str, tmp_path: Path) -> None:
    points, calibration = tmp_path / "points.csv", tmp_path / "mine.json"
    asked = ("--rps", "20", "--isl", "400", "--osl", str(WHOLE_TOKENS), "--model", "Llama-3.1-8B", "--hardware", "H100")
    done = bench(url, *asked, "--measurements", str(points), "--calibrate", str(calibration))
    assert done.exit_code == 0, done.output
    (point,) = read_measurements(points, Given())
    assert (point.ttft_s > 0, point.tpot_s > 0) == (True, False)
    assert calibration.exists()


@pytest.mark.parametrize(
    "args",
    [
        ("--rps", "1", "--trace", "steady:1"),
        ("--model", "Llama-3.1-8B"),
        ("--measurements", "x.csv"),
        ("--calibrate", "x.json"),
        ("--slo", "nonsense"),
    ],
)
def test_options_that_do_not_go_together_are_refused(url: str, args: tuple[str, ...]) -> None:
    assert isinstance(bench(url, *args).exception, PlenumError)


def test_another_table_is_not_written_over(url: str, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    done = bench(
        url, "--rps", "5", "--isl", "400", "--model", "Llama-3.1-8B", "--hardware", "H100", "--measurements", str(other)
    )
    assert isinstance(done.exception, PlenumError)
    assert other.read_text() == "a,b\n1,2\n"


def test_an_endpoint_that_is_not_up_is_not_waited_for_in_silence() -> None:
    endpoint: dict[str, Any] = {"metadata": {"tenant": "default", "name": "chat"}, "status": {"phase": "Pending"}}
    endpoint["status"]["waiting"] = {"code": "wait.capacity", "sentence": "default/chat-r1 waits: no room."}
    with pytest.raises(
        PlenumError, match=r"default/chat is Pending \(waits: no room\) and answers nobody now"
    ) as error:
        check_up(endpoint)
    assert exit_code(error.value) == CONFLICT
    for phase in ("Ready", "Starting", "Updating", "Degraded", "Idle"):
        check_up(endpoint | {"status": {"phase": phase}})


def test_what_an_endpoint_says_is_what_the_prediction_is_for() -> None:
    assert _promises({"ttft": 0.5, "tpot": "50ms", "quantile": 0.95}) == "ttft-p95=0.5,tpot-p95=50ms"
    assert _promises({}) == ""
    spec = {
        "model": "llama",
        "engine": "emulated",
        "timing": {"model": "Llama-3.1-8B", "hardware": "H100"},
        "pools": {"prefill": {}, "decode": {"parallelism": {"tp": 2}}},
    }
    status = {"pools": [{"name": "prefill", "ready": 3}, {"name": "decode", "ready": 1}]}
    found = _hardware(spec, status)
    assert (found["model"], found["hardware"], found["tp"]) == ("Llama-3.1-8B", "H100", 2)
    assert (found["replicas"], found["prefill"], found["decode"]) == (None, 3, 1)
    assert _hardware({"model": "smollm2", "engine": "llamacpp"}, {}) == {}
    real = {"model": "hf://meta-llama/Llama-3.1-8B@main", "engine": "vllm", "gpuModels": ["H100"]}
    assert _hardware(real, {"pools": [{"name": "serve", "ready": 2}]})["replicas"] == 2
