"""Looking ahead for all endpoints, whatever one of them brings."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from tests.patience import PATIENCE_S

from plenum.bootstrap import forecasts
from plenum.control.endpoints.loads import Loads


def test_traffic_that_cannot_be_foreseen_ends_no_other_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ValueError("it does not converge"), 2.0])

    def forecast_rps(*_: object) -> float:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(forecasts, "forecast_rps", forecast_rps)
    loads, said = Loads(), list[str]()
    service = SimpleNamespace(
        leading=True, state=SimpleNamespace(endpoints=["red/a", "red/b"]), controller=SimpleNamespace(loads=loads)
    )

    async def run() -> None:
        foreseeing = asyncio.create_task(forecasts.foresee(service, on_error=said.append))  # type: ignore[arg-type]
        async with asyncio.timeout(PATIENCE_S):
            while not (loads.forecast_rps or foreseeing.done()):
                await asyncio.sleep(0.01)
        foreseeing.cancel()
        await asyncio.gather(foreseeing, return_exceptions=True)

    asyncio.run(run())
    assert loads.forecast_rps == {"red/b": 2.0}
    assert said == ["the traffic of red/a cannot be foreseen: ValueError"]
