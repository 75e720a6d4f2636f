"""A gateway that says that it is ready has imported and compiled what requests need: neither stops its loop while they wait."""

import subprocess
import sys

REQUESTS = """
import asyncio, sys, time

from plenum.adapters.engines.table import engine_for
from plenum.gateway.admitting import Outlook, Pressure, judge
from plenum.gateway.dispatch import Dispatcher
from plenum.gateway.foresight import foresee
from plenum.gateway.handoff import Link
from plenum.model.endpoint import Endpoint, Promise
from plenum.serving import offload


def compiled():
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("plenum.")]
    functions = {id(each): each for module in modules for each in vars(module).values() if hasattr(each, "py_func")}
    return sum(len(each.signatures) for each in functions.values())


async def work():
    async with Dispatcher("g", engine_for):
        loaded, before = set(sys.modules), compiled()
        timing = {"timing_model": "llama-3.1-8b", "timing_hardware": "H100"}
        forecast = foresee(Endpoint(name="m", model="x", engine="emulated", **timing))
        for numbers in ((100, 10, 50, 2, 3), (100.0, 0.0, 0.0, 0.0, 0.0)):
            forecast.ttft_s(*numbers)
            forecast.learn_ttft(numbers, 0.1)
        forecast.tpot_s(3)
        forecast.work_s(100, 10, 20.0, 8)
        judge(Outlook(ttft_s=0.1, work_s=0.1), Outlook(), Promise(ttft_s=1.0), Pressure(time.monotonic), 1, 0.0, 100)
        link = Link(time.monotonic)
        link.carried(100)
        link.threshold_tokens(512)
        offload.place_prefill(1000, 16, 32, 511.0, False)
        print(compiled() - before, *sorted(set(sys.modules) - loaded))


asyncio.run(work())
"""


def test_nothing_is_imported_or_compiled_once_it_takes_requests():
    said = subprocess.run([sys.executable, "-c", REQUESTS], capture_output=True, text=True, check=True, timeout=120)

    assert said.stdout.split() == ["0"]
