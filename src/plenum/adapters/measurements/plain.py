"""From CSV tables to measurements: the plain one of Plenum, AIConfigurator's and splitwise-sim's.

The plain table has a header with any of the columns of :data:`COLUMNS`, in any order; ``model``, ``hardware`` and one measured column
must be among them. Times are in milliseconds; empty cells say nothing.

    model,hardware,engine,weights,tp,concurrency,isl,osl,ttft_ms,tpot_ms
    Llama-3.1-70B,H100,vllm,fp8,4,32,1024,1024,310,17.5
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from plenum.adapters.measurements.given import workers_of
from plenum.adapters.traces.table import Row, read_rows
from plenum.model.errors import FieldError
from plenum.serving.formats import Precision, format_named
from plenum.serving.instance import Parallelism
from plenum.serving.measurement import Measurement, Workers

ROWS_LIMIT = 200_000

COLUMNS = (
    "id", "model", "hardware", "engine", "engine_version", "weights", "experts", "kv_cache", "tp", "pp", "dp", "ep", "workers",
    "prefill_tp", "prefill_pp", "prefill_dp", "prefill_ep", "prefill_workers", "concurrency", "rate_rps", "isl", "osl", "ttft_ms",
    "tpot_ms", "prompt_ms", "token_ms", "average_w", "peak_w",
)  # fmt: skip
"""Columns of the plain table."""

MEASURED = ("ttft_ms", "tpot_ms", "prompt_ms", "token_ms")

_MOST = 1e9
_LABEL = re.compile(r"_tp(\d{1,4})(?:_0)?_ep")
_CONCURRENCY = re.compile(r"silicon_concurrency=(\d{1,9})")


def read_table(path: Path, header: Sequence[str]) -> list[Measurement]:
    """Read a CSV table whose header is known.

    Raises
    ------
    FieldError
        The header is none of the three, or a value cannot be meant.
    """
    for required, read in _TABLES:
        if set(required) <= set(header):
            return [read(row) for row in read_rows(path, required, max_rows=ROWS_LIMIT)]
    if not set(MEASURED) & set(header):
        wanted = f"columns {', '.join(COLUMNS)}, one of {', '.join(MEASURED)} at least"
        raise FieldError("header", f"is not that of a table of measurements: {wanted}", file=str(path), line=1)
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        sentence = f"{', '.join(unknown[:5])} are no columns of a table of measurements: {', '.join(COLUMNS)}"
        raise FieldError("header", sentence, file=str(path), line=1)
    return [_plain(row) for row in read_rows(path, (), max_rows=ROWS_LIMIT)]


def _plain(row: Row) -> Measurement:
    prefill = _workers(row, "prefill_")
    return Measurement(
        id=row.text("id"),
        model=row.text("model"),
        hardware=row.text("hardware"),
        engine=row.text("engine"),
        engine_version=row.text("engine_version"),
        precision=_precision(row, "weights", "experts", "kv_cache"),
        mode="disaggregated" if prefill else "aggregated",
        workers=_workers(row, ""),
        prefill=prefill,
        concurrency=_real(row, "concurrency"),
        rate_rps=_real(row, "rate_rps"),
        isl=_real(row, "isl"),
        osl=_real(row, "osl"),
        ttft_s=_real(row, "ttft_ms") / 1e3,
        tpot_s=_real(row, "tpot_ms") / 1e3,
        prompt_s=_real(row, "prompt_ms") / 1e3,
        token_s=_real(row, "token_ms") / 1e3,
        average_w=_real(row, "average_w"),
        peak_w=_real(row, "peak_w"),
    )


def _aiconfigurator(row: Row) -> Measurement:
    """AIConfigurator's ``silicon_sample.csv`` (0.12): ``batch_size`` is the concurrency of each attention group."""
    stated = _CONCURRENCY.search(row.text("silicon_data_source"))
    disaggregated = row.text("mode") == "disagg"
    workers, groups = _dealt(row, "decode_" if disaggregated else "", stated)
    prefill = _dealt(row, "prefill_", None)[0] if disaggregated else None
    concurrency = float(stated[1]) if stated else math.nan
    if not stated and disaggregated:
        concurrency = _real(row, "decode_batch_size") * _real(row, "decode_num_workers") * groups
    elif not stated:
        concurrency = _real(row, "batch_size") * groups
    return Measurement(
        id=row.text("id"),
        model=row.text("model_path"),
        hardware=row.text("system"),
        engine=row.text("backend"),
        engine_version=row.text("backend_version"),
        precision=_precision(row, "gemm_quant_mode", "moe_quant_mode", ""),
        mode="disaggregated" if disaggregated else "aggregated",
        workers=workers,
        prefill=prefill,
        concurrency=concurrency,
        isl=_real(row, "isl"),
        osl=_real(row, "osl"),
        ttft_s=_real(row, "silicon_ttft_ms") / 1e3,
        tpot_s=_real(row, "silicon_tpot_ms") / 1e3,
        source=row.text("silicon_data_source"),
    )


def _dealt(row: Row, pre: str, stated: re.Match[str] | None) -> tuple[Workers | None, int]:
    """Return the workers of one side and how many attention groups each has; None where the columns contradict one another."""
    tp, pp, dp = _whole(row, f"{pre}tp_size"), _whole(row, f"{pre}pp_size") or 1, _whole(row, f"{pre}attention_dp_size")
    moe_tp, moe_ep = _whole(row, f"{pre}moe_tp_size"), _whole(row, f"{pre}moe_ep_size")
    count = 1 if not pre else _whole(row, f"{pre}num_workers")
    if not dp and stated:  # not stated, but the load of one group (or of one replica) and of all are
        dp = max(1, round(int(stated[1]) / max(1, _whole(row, "batch_size"))))
        dp = 1 if moe_tp * moe_ep == tp else dp
    dp = dp or 1
    if stated and not pre:
        count = max(1, round(int(stated[1]) / max(1, _whole(row, "batch_size") * dp)))
    if not tp:
        return None, dp
    tp, dp, moe_tp, moe_ep = _unsquared(row.text("id"), tp, dp, moe_tp, moe_ep)
    ep = moe_ep if moe_tp * moe_ep == tp * dp else 1 if moe_tp * moe_ep <= 1 else 0
    if not ep:
        return None, dp
    return Workers(parallelism=Parallelism(tp=tp, pp=pp, dp=dp, ep=ep), count=count), dp


def _unsquared(name: str, tp: int, dp: int, moe_tp: int, moe_ep: int) -> tuple[int, int, int, int]:
    """Undo what the table does to runs whose experts are dealt out over as many devices as attention takes.

    Their width is in it as its square (``tp8_ep8`` as 64 devices of 8 x 8); the same measurements stand elsewhere in it with the
    width that was run.
    """
    labelled = _LABEL.search(name)
    if labelled and int(labelled[1]) == tp and dp == 1:
        return tp, dp, moe_tp, moe_ep
    if moe_tp == moe_ep > 1 and tp * dp == moe_tp * moe_ep:
        return (moe_ep, 1, 1, moe_ep) if dp == 1 else (1, moe_ep, 1, moe_ep)
    if tp == dp > 1 and moe_tp == 1 and moe_ep == tp * dp:
        return tp, 1, 1, tp
    return tp, dp, moe_tp, moe_ep


def _splitwise(row: Row) -> Measurement:
    """splitwise-sim's ``perf_model.csv``: times in milliseconds, power over that of one device at most."""
    capped = row.text("hardware").endswith("-pcap")
    return Measurement(
        model=row.text("model"),
        hardware=row.text("hardware").removesuffix("-pcap"),
        engine="vllm",
        workers=workers_of(_whole(row, "tensor_parallel")),
        concurrency=_real(row, "batch_size"),
        isl=_real(row, "prompt_size"),
        osl=_real(row, "token_size"),
        prompt_s=_real(row, "prompt_time") / 1e3,
        token_s=_real(row, "token_time") / 1e3,
        peak_w=(_real(row, "peak_power") or math.nan) * _splitwise_tdp(row),  # 0: not measured
        average_w=(_real(row, "average_power") or math.nan) * _splitwise_tdp(row),
        source="power capped" if capped else "",
    )


def _splitwise_tdp(row: Row) -> float:
    """Watts of the device at most; splitwise-sim gives power as a part of it (arXiv 2311.18677 table 1)."""
    return 700.0 if row.text("hardware").startswith("h100") else 400.0


_TABLES: tuple[tuple[tuple[str, ...], Callable[[Row], Measurement]], ...] = (
    (("model_path", "system", "backend", "tp_size", "silicon_ttft_ms", "silicon_tpot_ms"), _aiconfigurator),
    (("prompt_size", "batch_size", "token_size", "prompt_time", "token_time", "tensor_parallel"), _splitwise),
)


def _workers(row: Row, pre: str) -> Workers | None:
    tp = _whole(row, f"{pre}tp")
    if not tp:
        return None
    pp, dp, ep = (_whole(row, f"{pre}{name}") or 1 for name in ("pp", "dp", "ep"))
    try:
        return workers_of(tp, pp=pp, dp=dp, ep=ep, count=_whole(row, f"{pre}workers") or 1, field=f"{pre}tp")
    except FieldError as error:
        raise error.located(file=row.file, line=row.line) from None


def _precision(row: Row, weights: str, experts: str, cache: str) -> Precision | None:
    stated = row.text(weights)
    if not stated:
        return None
    try:
        dense = format_named(stated, weights).name
        routed = format_named(row.text(experts), experts).name if row.text(experts) else ""
        kept = format_named(row.text(cache), cache).name if cache and row.text(cache) else ""  # not stated
    except FieldError as error:
        raise error.located(file=row.file, line=row.line) from None
    return Precision(weights=dense, experts=routed if routed != dense else "", kv_cache=kept)


def _real(row: Row, name: str) -> float:
    return row.real(name, 0.0, _MOST) if row.text(name) else math.nan


def _whole(row: Row, name: str) -> int:
    return row.whole(name, 0, 1_000_000) if row.text(name) else 0
