"""The emulated engine: answers without a model, at the pace that the serving model says a model on some accelerator would have.

For load tests, and for trying a fleet that one does not own. Its process is :mod:`plenum.adapters.engines.emulated_process`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec

import msgspec

from plenum.adapters.authorities import OwnCertificate, sha256_of
from plenum.adapters.engines.handoff import HandoffClient
from plenum.adapters.engines.server import Command, Server, url_of
from plenum.model.endpoint import DECODE, PREFILL, Endpoint
from plenum.model.errors import FieldError, MissingExtraError
from plenum.ports.engine import Capabilities

READY_S = 60.0
TRANSFER_BPS = 50e9
"""Bytes a second of a pretended transfer; as in :class:`plenum.serving.pools.Serving`."""

_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?")

METRICS: Mapping[str, tuple[str, ...]] = {
    "running": ("plenum_engine_running",),
    "waiting": ("plenum_engine_waiting",),
    "cache_used": ("plenum_engine_cache_used",),
    "prompt_tokens": ("plenum_engine_prompt_tokens_total",),
    "cached_tokens": ("plenum_engine_cached_tokens_total",),
    "output_tokens": ("plenum_engine_output_tokens_total",),
}


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong, for trying what others make of it; ``POST /faults`` changes it while it runs.

    Parameters
    ----------
    latency
        Every iteration takes so many times as long.
    error_rate
        So much of all requests is answered with 500.
    break_after
        Streams break off after so many chunks; 0: they do not.
    hang
        Nothing is computed any more, though the server still takes requests.
    unhealthy
        It says that it is not well.
    """

    latency: float = 1.0
    error_rate: float = 0.0
    break_after: int = 0
    hang: bool = False
    unhealthy: bool = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the process of an emulated engine is told, on its standard input.

    Parameters
    ----------
    model, hardware
        Names of the catalogue.
    scale
        Real seconds for each second of the model: 0.1 is ten times as fast.
    cache_tokens
        KV cache; 0: what fits beside the weights.
    slots, batch_tokens
        Sequences in a batch, tokens of an iteration; 0: the engine's defaults.
    role
        ``both``, ``prefill`` or ``decode``.
    calibration
        File that ``plenum plan calibrate`` wrote; empty: what ships.
    isl, osl
        Tokens of prompts and outputs about which its corrections are taken.
    certificate
        That it speaks TLS with; None: it does not.
    """

    host: str
    port: int
    name: str = "default"
    key: str = ""
    digest: str = ""
    model: str = "llama-3.1-8b"
    hardware: str = "H100"
    weights_format: str = ""
    cache_format: str = ""
    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    scale: float = 1.0
    slots: int = 0
    batch_tokens: int = 0
    block_tokens: int = 0
    cache_tokens: int = 0
    context_tokens: int = 0
    transfer_bps: float = TRANSFER_BPS
    role: str = "both"
    seed: int = 0
    calibration: str = ""
    isl: float = 2048.0
    osl: float = 512.0
    faults: Faults = Faults()
    certificate: OwnCertificate | None = None


class Emulated(HandoffClient):
    """An emulated engine."""

    kind = "emulated"
    metric_names = METRICS

    async def learn(self) -> None:
        """Ask for slots and context."""
        model = (await self.ask_json("GET", "/v1/models"))["data"][0]
        self.handoff_url, self.weights_digest = self.url, str(model["digest"])
        self.capabilities = Capabilities(
            tokenize=True,
            handoff=True,
            cache_salt=True,
            slots=int(model["slots"]),
            context_tokens=int(model["max_model_len"]),
        )

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text."""
        return tuple((await self.ask_json("POST", "/tokenize", {"prompt": text}))["tokens"])

    async def prompt_tokens(self, path: str, body: bytes) -> int:
        """Return how many tokens a request's prompt has, its template included."""
        asked = {"path": path, "body": msgspec.json.decode(body, type=dict)}
        return len((await self.ask_json("POST", "/tokenize", asked))["tokens"])

    async def fail(self, faults: Faults) -> None:
        """Let things go wrong from now on."""
        await self.ask_json("POST", "/faults", faults)


def launch_emulated(settings: Settings) -> Emulated:
    """Return an engine that starts its own server.

    Raises
    ------
    FieldError
        The catalogue does not have what it pretends to be, or that has no room for its model.
    FileError
        Its calibration cannot be read.
    MissingExtraError
        What it serves HTTP with is not installed.
    """
    from plenum.adapters.engines.emulated_instance import calibration_of, instance_of

    if find_spec("aiohttp") is None:
        raise MissingExtraError("an emulated engine needs aiohttp: pip install 'plenum-os[gateway]'")
    # Here, where what is wrong can still be told apart from an engine that does not come up.
    instance_of(settings)
    calibration_of(settings)
    return Emulated(
        url_of(settings.host, settings.port, tls=settings.certificate is not None),
        key=settings.key,
        certificate_sha256=sha256_of(settings.certificate),
        server=Server(lambda: _command(settings)),
    )


def emulated_settings(
    endpoint: Endpoint, pool: str, *, host: str, port: int, key: str, certificate: OwnCertificate | None = None
) -> Settings:
    """Return the settings for a replica of an endpoint.

    Its arguments may be ``--scale``, ``--cache-tokens``, ``--batch-tokens``, ``--block-tokens``, ``--transfer-bps``, ``--seed``,
    ``--isl``, ``--osl`` and the fields of :class:`Faults`, each with a number (``--latency 2``), and ``--calibration`` with a file.

    Raises
    ------
    FieldError
        Arguments that are not known.
    """
    own = next(each for each in endpoint.pools if each.name == pool)
    given = _arguments(endpoint.arguments)
    faults = {name: given.pop(name) for name in Faults.__struct_fields__ if name in given}
    spread = own.parallelism
    settings = {
        "host": host,
        "port": port,
        "name": endpoint.model_name,
        "key": key,
        "digest": f"emulated:{endpoint.timing_model}:{endpoint.timing_hardware}",
        "model": endpoint.timing_model or endpoint.model,
        "hardware": endpoint.timing_hardware or "H100",
        "weights_format": endpoint.weights_format,
        "cache_format": endpoint.cache_format,
        "tensor": spread.tp,
        "pipeline": spread.pp,
        "data": spread.dp,
        "expert": spread.ep,
        "slots": endpoint.slots,
        "context_tokens": endpoint.context_tokens,
        "role": pool if pool in (PREFILL, DECODE) else "both",
        "faults": faults,
        "certificate": certificate,
    }
    try:
        return msgspec.convert(settings | given, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise FieldError("spec.arguments", f"an emulated engine cannot take them: {error}") from None


def _arguments(words: tuple[str, ...]) -> dict[str, str]:
    settings = (
        "scale",
        "cache_tokens",
        "batch_tokens",
        "block_tokens",
        "transfer_bps",
        "seed",
        "isl",
        "osl",
        "calibration",
    )
    known = (*settings, *Faults.__struct_fields__)
    given: dict[str, str] = {}
    left = list(words)
    while left:
        name, _, value = left.pop(0).removeprefix("--").partition("=")
        name, value = name.replace("-", "_"), value or (left.pop(0) if left else "")
        if name not in known:
            names = ", ".join("--" + each.replace("_", "-") for each in known)
            raise FieldError("spec.arguments", f"{name!r} is unknown; an emulated engine takes {names}")
        given[name] = value
    for name, value in given.items():
        if name != "calibration" and value not in ("true", "false") and not _NUMBER.fullmatch(value):
            raise FieldError("spec.arguments", f"{name} takes a number from 0, not {value[:60]!r}")
    return given


def _command(settings: Settings) -> Command:
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    # Its iterations are few and small: as plain Python they are fast enough, and there is nothing to compile.
    plain = {"NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return Command(
        words=(sys.executable, "-m", "plenum.adapters.engines.emulated_process"),
        env=env | plain | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        told=msgspec.json.encode(settings) + b"\n",
        ready_s=READY_S,
    )
