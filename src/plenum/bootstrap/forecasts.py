"""Looking ahead: what traffic each endpoint is to expect, told to scaling every few minutes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from plenum.adapters.forecast import forecast_rps
from plenum.control.endpoints.loads import BIN_S
from plenum.control.service import Service
from plenum.model.errors import MissingExtraError

AHEAD = 2
"""Bins looked ahead: longer than a replica takes to start."""

DAY = int(86_400 / BIN_S)


async def foresee(service: Service, *, on_error: Callable[[str], None] = lambda sentence: None) -> None:
    """Forecast every endpoint's traffic, again and again, in a thread of its own; without the extra ``forecast``, say so and end."""
    while True:
        for endpoint in list(service.state.endpoints):
            rates = service.controller.loads.rates(endpoint)
            try:
                expected = await asyncio.to_thread(forecast_rps, rates, AHEAD, DAY) if service.leading else math.nan
            except MissingExtraError as error:
                on_error(f"scaling looks at the present only: {error.sentence}")
                return
            except Exception as error:  # the library's own; what it cannot do for one is no reason to end it for all
                on_error(f"the traffic of {endpoint} cannot be foreseen: {type(error).__name__}")
                continue
            if math.isfinite(expected):
                service.controller.loads.forecast_rps[endpoint] = expected
        await asyncio.sleep(BIN_S)
