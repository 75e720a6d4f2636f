"""Whether a request is taken at all: what admission reads is predicted here; admission decides."""

from __future__ import annotations

import math

from plenum.serving import admission, routing
from plenum.serving.steps import AT as COEFFICIENT
from plenum.serving.steps import chunk_pairs, chunk_pairs_window, step
from plenum.sim.serving import fields as f
from plenum.sim.serving.choosing import predict_ttft
from plenum.sim.serving.compiled import small
from plenum.sim.serving.events import RETRY, push
from plenum.sim.serving.world import World

_WINDOW, _REQUEST = COEFFICIENT["window"], COEFFICIENT["request_s"]

NOW, LATER, NEVER = range(3)
"""What becomes of a request."""


@small
def judge(w: World, i: int, r: int, now_s: float) -> int:
    """Ask admission about a request that would go to instance ``i``: it is served NOW, put off to LATER, or NEVER served."""
    ttft_s, tpot_s, work_s = math.inf, math.inf, 0.0
    up = 0
    for k in range(w.ni.shape[1]):
        up += w.ni[f.CONDITION, k] == f.UP and w.ni[f.MODEL, k] == w.ri[r, f.ASKED]
    if i >= 0:
        if w.clock[f.ROUTING] == routing.MOONCAKE:  # noqa: SIM108 - the time that a copy takes is in it
            ttft_s = w.nf[f.PREDICTED, i]
        else:
            ttft_s = predict_ttft(w, i, r, w.ni[f.HITS, i], now_s)
        ttft_s += w.steps[i, _REQUEST]
        prompt, ahead = w.ri[r, f.PROMPT], w.ni[f.QUEUED, i] + w.ni[f.PREFILLS, i] + 1  # these decode too by then
        decodes = w.ni[f.DECODES, i] + ahead
        context = w.nf[f.CONTEXT, i] + ahead * (prompt + 0.5 * w.ri[r, f.LIMIT])
        window = w.steps[i, _WINDOW]
        narrow = w.nf[f.CONTEXT_WINDOW, i] + ahead * min(prompt, window)
        tpot_s, _ = step(w.steps[i], 0.0, 0.0, 0.0, 0.0, decodes, context, narrow)
        tpot_s /= w.nf[f.ADVANCE, i]
        alone_s, _ = step(
            w.steps[i], prompt, chunk_pairs(0.0, prompt), chunk_pairs_window(0.0, prompt, window), 1.0, 0.0, 0.0, 0.0
        )
        work_s = alone_s + (w.ri[r, f.LIMIT] - 1) * tpot_s / decodes
        tpot_s += (
            decodes * alone_s / max(w.ri[r, f.LIMIT], 1)
        )  # whoever is done makes room for a prompt, which all the others meet
    classes = len(w.clock) - f.SETTINGS
    rank, elapsed_s = w.ri[r, f.RANK], now_s - w.clock[f.PRESSURE_AT]
    pressure, above = 0.0, 0.0
    for k in range(classes):
        if w.ri[r, f.PUT_OFF] == 0:
            w.clock[f.SETTINGS + k] = admission.pressure_after(
                w.clock[f.SETTINGS + k], elapsed_s, work_s if k == rank else 0.0, float(up), w.clock[f.ADMIT_WINDOW]
            )
        if k >= rank:
            pressure += w.clock[f.SETTINGS + k]
        if k > rank:
            above += w.clock[f.SETTINGS + k]
    if w.ri[r, f.PUT_OFF] == 0:
        w.clock[f.PRESSURE_AT] = now_s
    waited_s = now_s - w.rf[r, f.READY]
    margin = w.clock[f.ADMIT_MARGIN]
    deferrable = w.ri[r, f.RANK] < w.clock[f.ADMIT_DEFERRABLE]
    verdict, _ = admission.decide(
        ttft_s,
        ttft_s * margin,
        tpot_s,
        tpot_s * margin,
        w.clock[f.ADMIT_TTFT] - (0.0 if deferrable else waited_s),
        w.clock[f.ADMIT_TPOT],
        pressure,
        above,
        w.clock[f.ADMIT_PRESSURE] + rank * w.clock[f.ADMIT_CLASS],
        w.ri[r, f.LIMIT],
        int(w.clock[f.ADMIT_CAP]),
        math.inf,
        math.inf,
        deferrable,
    )
    if verdict == admission.DEFER and w.ri[r, f.PUT_OFF] < w.clock[f.ADMIT_DEFER_MOST]:
        w.ri[r, f.PUT_OFF] += 1
        w.ri[r, f.STATE] = f.PENDING
        push(w, now_s + w.clock[f.ADMIT_DEFER], RETRY, r, w.ri[r, f.EPOCH])
        return LATER
    if verdict in (admission.DEFER, admission.SHED):
        return NEVER
    if verdict == admission.CAP:
        w.ri[r, f.LIMIT] = min(w.ri[r, f.LIMIT], int(w.clock[f.ADMIT_CAP]))
    return NOW
