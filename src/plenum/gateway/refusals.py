"""What was refused, in the log: who, where and why, never what they wrote; and never so much of it that it hides the rest."""

from __future__ import annotations

import logging

from plenum.gateway.call import Call
from plenum.gateway.limits import MINUTE_S, Bucket
from plenum.gateway.measures import Measures
from plenum.gateway.request import RefusedError

LINES_PER_MINUTE = 600

_LOG = logging.getLogger("plenum.gateway.refusals")


class Refusals:
    """Counts every refusal, and writes of each as long as they are not too many."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self._lines = Bucket(LINES_PER_MINUTE, 0.0)
        self._unsaid = 0

    def note(self, call: Call, error: RefusedError, now_s: float) -> None:
        """Note a refusal."""
        self._measures.refusals.labels(error.code).inc()
        if self._lines.level(now_s) < 1.0:
            self._unsaid += 1
            return
        self._lines.take(1.0)
        if self._unsaid:
            _LOG.warning("%d more refusals in the last %.0f s", self._unsaid, MINUTE_S)
            self._unsaid = 0
        _LOG.info(
            "refused %d %s%s: %s %s of key %s of tenant %s from %s, %s",
            error.status,
            error.code,
            f" ({error.field})" if error.field else "",
            call.method[:16],
            call.path[:128] if call.path.isprintable() else "?",
            call.key.id or "-",
            call.key.tenant or "-",
            call.address or "-",
            call.id,
        )
