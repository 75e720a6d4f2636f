"""A plan as what engines are started with: shell lines of vLLM, SGLang and TensorRT-LLM.

Flags as their documentation of 2025 has them: docs.vllm.ai (engine arguments, NixlConnector usage), docs.sglang.io (server arguments, PD
disaggregation, model gateway), TensorRT-LLM (``trtllm-serve``, ``examples/disaggregated``). Limits that engines count for each
data-parallel rank are divided by the ranks.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable

from plenum.planning.serving.layout import PoolChoice
from plenum.planning.serving.points import Point
from plenum.planning.serving.question import Question
from plenum.planning.serving.words import figure
from plenum.serving.instance import RUNTIME_FRACTION, Instance

MODEL = "$MODEL"
"""Shell variable that names the weights: a folder, or a repository."""

PORT = 8000
NARROW_CACHES = ("fp8", "fp8_e5m2")
WIDE = ("bf16", "fp16", "fp32")

CONTEXT_SLACK = 64
"""Tokens that templates and special tokens add to the longest request."""


def context_tokens(question: Question) -> int:
    """Return the context length to start engines with: the longest request, rounded up."""
    wanted = question.traffic.longest_tokens + CONTEXT_SLACK
    return int(min(math.ceil(wanted / 1024) * 1024, question.model.max_context))


def servers_of(instance: Instance) -> int:
    """Return over how many servers one instance is spread."""
    return math.ceil(instance.devices / instance.hardware.server_devices)


def vllm_arguments(pool: PoolChoice, context: int) -> list[str]:
    """Return the arguments of ``vllm serve`` for one instance of a pool."""
    return vllm_words(pool.option.instance, pool.role, context)


def vllm_words(instance: Instance, role: str, context: int) -> list[str]:
    """As :func:`vllm_arguments`, of an instance that no plan chose; ``role`` is ``both``, ``prefill`` or ``decode``."""
    spread, settings, precision = instance.parallelism, instance.settings, instance.precision
    words = [MODEL, "--port", str(PORT), "--tensor-parallel-size", str(spread.tp)]
    if spread.pp > 1:
        words += ["--pipeline-parallel-size", str(spread.pp)]
    if spread.dp > 1:
        words += ["--data-parallel-size", str(spread.dp)]
    if spread.ep > 1:
        words += ["--enable-expert-parallel"]
    words += ["--max-model-len", str(context)]
    words += ["--max-num-seqs", str(_each(settings.max_sequences, spread.dp))]
    words += ["--max-num-batched-tokens", str(settings.max_batched_tokens)]
    words += ["--gpu-memory-utilization", f"{RUNTIME_FRACTION:g}"]
    if (
        _narrowed(instance) and precision.weights == "fp8"
    ):  # while it loads; others need a checkpoint that holds them so
        words += ["--quantization", "fp8"]
    if precision.kv_cache in NARROW_CACHES:
        words += ["--kv-cache-dtype", precision.kv_cache]
    words.append("--enable-prefix-caching" if settings.prefix_caching else "--no-enable-prefix-caching")
    if role != "both":
        config = {"kv_connector": "NixlConnector", "kv_role": "kv_producer" if role == "prefill" else "kv_consumer"}
        if (
            role == "decode"
        ):  # a cache that is gone is computed; by default the request fails, a stream after its status was sent
            config["kv_load_failure_policy"] = "recompute"
        words += ["--kv-transfer-config", json.dumps(config, separators=(",", ":"))]
    return words


def sglang_arguments(pool: PoolChoice, context: int) -> list[str]:
    """Return the arguments of ``python -m sglang.launch_server`` for one instance of a pool."""
    return sglang_words(pool.option.instance, pool.role, context)


def sglang_words(instance: Instance, role: str, context: int) -> list[str]:
    """As :func:`sglang_arguments`, of an instance that no plan chose; ``role`` is ``both``, ``prefill`` or ``decode``."""
    spread, settings, precision = instance.parallelism, instance.settings, instance.precision
    words = ["--model-path", MODEL, "--host", "0.0.0.0", "--port", str(PORT)]
    words += ["--tp-size", str(spread.tp * spread.dp)]  # of all groups: SGLang divides by --dp-size
    if spread.pp > 1:
        words += ["--pp-size", str(spread.pp)]
    if spread.dp > 1:
        words += ["--dp-size", str(spread.dp), "--enable-dp-attention"]
    if spread.ep > 1:
        words += ["--ep-size", str(spread.ep)]
    words += ["--context-length", str(context), "--max-running-requests", str(settings.max_sequences)]
    words += ["--chunked-prefill-size", str(settings.max_batched_tokens * spread.dp)]  # divided by --dp-size too
    words += ["--mem-fraction-static", f"{RUNTIME_FRACTION:g}"]
    if _narrowed(instance) and precision.weights == "fp8":
        words += ["--quantization", "fp8"]
    if precision.kv_cache in NARROW_CACHES:
        words += ["--kv-cache-dtype", "fp8_e5m2" if precision.kv_cache == "fp8_e5m2" else "fp8_e4m3"]
    if not settings.prefix_caching:
        words.append("--disable-radix-cache")
    if role != "both":
        words += ["--disaggregation-mode", role, "--disaggregation-transfer-backend", "nixl"]
    return words


def trtllm_arguments(pool: PoolChoice, context: int) -> list[str]:
    """Return the arguments of ``trtllm-serve`` for one instance of a pool; :func:`trtllm_options` says what its YAML file holds."""
    instance = pool.option.instance
    spread, settings = instance.parallelism, instance.settings
    words = [MODEL, "--host", "0.0.0.0", "--port", str(PORT), "--tp_size", str(spread.tp * spread.dp)]
    if spread.pp > 1:
        words += ["--pp_size", str(spread.pp)]
    if spread.ep > 1:
        words += ["--ep_size", str(spread.ep)]
    words += ["--max_batch_size", str(_each(settings.max_sequences, spread.dp))]
    words += ["--max_num_tokens", str(settings.max_batched_tokens), "--max_seq_len", str(context)]
    words += ["--extra_llm_api_options", f"{pool_name(pool)}.yaml"]
    return words


def trtllm_options(pool: PoolChoice) -> list[str]:
    """Return the lines of the YAML file of options that ``trtllm-serve`` has no flags for."""
    instance = pool.option.instance
    lines = ["kv_cache_config:", f"  free_gpu_memory_fraction: {RUNTIME_FRACTION:g}"]
    lines.append(f"  enable_block_reuse: {str(instance.settings.prefix_caching).lower()}")
    if instance.precision.kv_cache in NARROW_CACHES:
        lines.append("  dtype: fp8")
    lines.append("enable_chunked_prefill: true")
    if instance.parallelism.dp > 1:
        lines.append("enable_attention_dp: true")
    if pool.role != "both":
        lines += ["cache_transceiver_config:", "  backend: UCX"]
    if pool.role == "prefill":
        lines.append("disable_overlap_scheduler: true")
    return lines


def pool_name(pool: PoolChoice) -> str:
    """Return a name for a pool: ``prefill-h200``."""
    role = "serve" if pool.role == "both" else pool.role
    return f"{role}-{pool.option.hardware.name.lower()}"


def engine_words(engine: str, pool: PoolChoice, context: int) -> list[str]:
    """Return program and arguments for one instance of a pool under an engine: ``vllm``, ``sglang`` or ``trtllm``."""
    program, arguments = PROGRAMS[engine]
    return [*program, *arguments(pool, context)]


PROGRAMS: dict[str, tuple[tuple[str, ...], Callable[[PoolChoice, int], list[str]]]] = {
    "vllm": (("vllm", "serve"), vllm_arguments),
    "sglang": (("python", "-m", "sglang.launch_server"), sglang_arguments),
    "trtllm": (("trtllm-serve",), trtllm_arguments),
}
"""Engine to its program and what makes its arguments."""


def launch_script(engine: str, question: Question, point: Point) -> str:
    """Return a shell script that starts one instance of the pool it is told, or the router where pools are apart."""
    context = context_tokens(question)
    pools = point.layout.pools
    names = [pool_name(pool) for pool in pools] + (["router"] if point.layout.disaggregated else [])
    lines = [
        "#!/bin/sh",
        f"# {question.model.name} for {figure(point.rate_rps)} requests a second: MODEL=FOLDER sh {engine}.sh {'|'.join(names)}",
        "set -eu",
        'case "${1:-}" in',
    ]
    for pool in pools:
        lines += [
            f"{pool_name(pool)})",
            *(f"  {line}" for line in _pool_lines(engine, question, pool, context)),
            "  ;;",
        ]
    if point.layout.disaggregated:
        lines += ["router)", *(f"  {line}" for line in _router_lines(engine)), "  ;;"]
    lines += ["*)", f'  echo "usage: sh $0 {"|".join(names)}" >&2; exit 2', "  ;;", "esac"]
    return "\n".join(lines).replace("  END\n", "END\n") + "\n"


def _pool_lines(engine: str, question: Question, pool: PoolChoice, context: int) -> list[str]:
    instance = pool.option.instance
    servers = servers_of(instance)
    lines = [
        f"# one of {pool.count} instances of {instance.devices} {pool.option.hardware.name} ({instance.parallelism})"
    ]
    lines.append(
        f': "${{MODEL:?a folder or repository with the weights of {question.model.name}{_held(engine, instance)}}}"'
    )
    words, before = engine_words(engine, pool, context), "exec "
    if engine == "trtllm":
        lines += [f"cat > {pool_name(pool)}.yaml <<'END'", *trtllm_options(pool), "END"]
        if servers > 1:
            before = f"exec srun --mpi=pmix -N {servers} --ntasks {instance.devices} trtllm-llmapi-launch "
    elif servers > 1:
        lines.append(
            f"# spread over {servers} servers: run it on each, NODE_RANK from 0, HEAD the address of the first"
        )
        lines += headless_lines(engine)
        words += servers_words(engine, servers)
    if engine == "vllm" and pool.role != "both":
        before = 'exec env VLLM_NIXL_SIDE_CHANNEL_HOST="$(hostname -i)" '
    lines += (before + shell_line(words)).split("\n")
    return lines


def servers_words(engine: str, servers: int) -> list[str]:
    """Return the arguments with which an instance is spread over servers, data parallel ranks among them; words of the shell as above.

    Not ``--data-parallel-start-rank``: given to the first server, vLLM takes it that each has an API and balances only its own ranks.
    """
    words = ["--nnodes", str(servers), "--node-rank", "$NODE_RANK"]
    return words + (["--dist-init-addr", "$HEAD:5000"] if engine == "sglang" else ["--master-addr", "$HEAD", "$@"])


def headless_lines(engine: str) -> list[str]:
    """Return the shell that makes of all servers but the first ones without an API of their own, as vLLM wants to be told."""
    return ["set --", '[ "$NODE_RANK" = 0 ] || set -- --headless'] if engine == "vllm" else []


def _router_lines(engine: str) -> list[str]:
    if engine == "sglang":
        return [
            "# PREFILLS and DECODES are addresses such as 'http://10.0.0.1:8000 http://10.0.0.2:8000'",
            "set -- --pd-disaggregation --host 0.0.0.0 --port 8080",
            'for each in $PREFILLS; do set -- "$@" --prefill "$each"; done',
            'for each in $DECODES; do set -- "$@" --decode "$each"; done',
            'exec python -m sglang_router.launch_router "$@"',
        ]
    if engine == "trtllm":
        return [
            "# PREFILLS and DECODES are addresses such as '10.0.0.1:8000 10.0.0.2:8000'",
            "{ echo 'hostname: 0.0.0.0'; echo 'port: 8080'; echo 'backend: pytorch'",
            "  echo 'context_servers:'; echo \"  num_instances: $(echo $PREFILLS | wc -w)\"; echo '  urls:'",
            "  for each in $PREFILLS; do echo \"  - '$each'\"; done",
            "  echo 'generation_servers:'; echo \"  num_instances: $(echo $DECODES | wc -w)\"; echo '  urls:'",
            "  for each in $DECODES; do echo \"  - '$each'\"; done; } > router.yaml",
            "exec trtllm-serve disaggregated -c router.yaml",
        ]
    return [
        "# pip install vllm-router (vllm-project/router); llm-d and Dynamo have others.",
        "# PREFILLS and DECODES are addresses such as 'http://10.0.0.1:8000 http://10.0.0.2:8000'",
        "set -- --vllm-pd-disaggregation --kv-connector nixl --host 0.0.0.0 --port 8080",
        'for each in $PREFILLS; do set -- "$@" --prefill "$each"; done',
        'for each in $DECODES; do set -- "$@" --decode "$each"; done',
        'exec vllm-router "$@"',
    ]


def shell_line(words: list[str]) -> str:
    """Join words for a shell, variables left to it; options on lines of their own."""
    # Only words of ours begin with a dollar; the rest is quoted.
    quoted = [f'"{word}"' if word.startswith("$") else shlex.quote(word) for word in words]
    line = ""
    for word in quoted:
        line += (
            " \\\n  " if word.startswith("-") and len(line.rsplit("\n", 1)[-1]) > 90 else " " if line else ""
        ) + word
    return line


def _each(total: int, groups: int) -> int:
    """Return what one data-parallel rank gets of a limit on the whole instance."""
    return math.ceil(total / groups)


def _narrowed(instance: Instance) -> bool:
    return instance.precision.weights != instance.model.weights_format


def _held(engine: str, instance: Instance) -> str:
    """Say which checkpoint an engine needs where it does not narrow weights itself."""
    form = instance.precision.weights
    itself = engine != "trtllm" and form == "fp8"
    return (
        f", a checkpoint that holds them in {form}" if _narrowed(instance) and not itself and form not in WIDE else ""
    )
