"""llama.cpp: the embedded default, a native server out of the ``xllamacpp`` package, in a process of its own.

The package has no way to stop a server, hence the process (:mod:`plenum.adapters.engines.llamacpp_process`). Beside the server's own port
it has a second one for hand-offs; the list of models says where (a tag), so whoever has the engine's address and key finds it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from plenum.adapters.authorities import OwnCertificate, sha256_of
from plenum.adapters.engines.handoff import HandoffClient
from plenum.adapters.engines.http import HttpEngine, Opening
from plenum.adapters.engines.server import Command, Server, url_of
from plenum.adapters.weights import WeightsError, gguf_in
from plenum.model.endpoint import Endpoint
from plenum.model.errors import FieldError
from plenum.ports.engine import CHAT, COMPLETIONS, Capabilities, EngineError

HANDOFF_TAG, DIGEST_TAG, ADAPTER_TAG = "handoff=", "digest=", "adapter="
"""Of the model in ``/v1/models``: address of the second port, digest of the weights, number and name of an adapter (``adapter=0=poet``)."""

DEFAULT_SLOTS = 4
DEFAULT_CONTEXT_TOKENS = 4_096
"""Of each slot, unless the endpoint says more: a laptop's memory holds four."""

BATCH_TOKENS = 128
"""Prompt tokens computed at once: between two such pieces the others get their next token, and questions an answer."""

CACHE_MIB = 128
"""Of prompts kept outside of slots; the server's own default of 8 GiB is not for machines that do other things too."""

READY_S = 600.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the process of a server is told, on its standard input.

    Parameters
    ----------
    port, handoff_port
        Of OpenAI's dialect, and of hand-offs; 0: a free one.
    digest
        Of the weights: caches are bound to it.
    caches
        Folder for saved caches; empty: no hand-offs.
    adapters
        Names, and GGUF files.
    certificate
        That TLS is spoken with at both addresses; None: neither speaks it.
    """

    path: str
    host: str
    port: int
    handoff_port: int = 0
    name: str = "default"
    key: str = ""
    digest: str = ""
    caches: str = ""
    slots: int = DEFAULT_SLOTS
    context_tokens: int = DEFAULT_CONTEXT_TOKENS
    threads: int = 1
    batch_tokens: int = BATCH_TOKENS
    cache_mib: int = CACHE_MIB
    embeddings: bool = False
    adapters: tuple[tuple[str, str], ...] = ()
    certificate: OwnCertificate | None = None


class LlamaCpp(HandoffClient, HttpEngine):
    """A llama.cpp server."""

    kind = "llamacpp"
    metric_names: Mapping[str, tuple[str, ...]] = {
        "running": ("llamacpp:requests_processing",),
        "waiting": ("llamacpp:requests_deferred",),
        # Its counter of prompt tokens leaves out the cached ones.
        "prompt_tokens": ("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),
        "cached_tokens": ("llamacpp:prompt_tokens_cached_total",),
        "output_tokens": ("llamacpp:tokens_predicted_total",),
    }
    adapters: tuple[str, ...] = ()

    async def learn(self) -> None:
        """Ask for slots, context, and where hand-offs are spoken of."""
        models = await self.ask_json("GET", "/v1/models")
        props = await self.ask_json("GET", "/props")
        try:
            self._take(models["data"][0], props)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise EngineError(f"{self.url} tells of itself what cannot be understood: {error!r}") from error

    def _take(self, model: Any, props: Any) -> None:
        tags = [str(tag) for tag in model.get("tags", ())]
        self.handoff_url = next((tag[len(HANDOFF_TAG) :] for tag in tags if tag.startswith(HANDOFF_TAG)), "")
        self.weights_digest = next((tag[len(DIGEST_TAG) :] for tag in tags if tag.startswith(DIGEST_TAG)), "")
        self.adapters = tuple(name for _, name in sorted(_numbered(tags)))
        embeds = "embeddings" in tags
        self.capabilities = Capabilities(
            chat=not embeds,
            completions=not embeds,
            embeddings=embeds,
            tokenize=True,
            handoff=bool(self.handoff_url) and not embeds,
            adapters=bool(self.adapters),
            slots=int(props.get("total_slots", 0)),
            context_tokens=int(props.get("default_generation_settings", {}).get("n_ctx", 0)),
        )

    async def models(self) -> tuple[str, ...]:
        """Return the names that it serves, adapters among them."""
        return (*await super().models(), *self.adapters)

    def open(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Opening:
        """Send a request and give its answer while the context is open."""
        if self.adapters and path in (CHAT, COMPLETIONS):
            body = body.rstrip().removesuffix(b"}") + b',"lora":' + msgspec.json.encode(self.lora(body)) + b"}"
        return super().open(path, body, headers)

    def lora(self, body: bytes) -> list[dict[str, float]]:
        """Return which adapter a request is for, as the server wants it said; of a request for the model, that none is.

        Unsaid, the server would go on from what an adapter's request left in the slot, as if the model itself had computed it.
        """
        if not self.adapters:
            return []
        try:
            name = msgspec.json.decode(body, type=_Named).model
        except msgspec.DecodeError:
            name = ""  # what is wrong with it, the server says
        return [{"id": k, "scale": float(each == name)} for k, each in enumerate(self.adapters)]

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text."""
        found = await self.ask_json("POST", "/tokenize", {"content": text, "add_special": False})
        return tuple(found["tokens"])

    async def prompt_tokens(self, path: str, body: bytes) -> int:
        """Return how many tokens a request's prompt has, its template included."""
        asked = msgspec.json.decode(body, type=dict)
        prompt = asked.get("prompt")
        if path == CHAT:
            prompt = (await self.ask_json("POST", "/apply-template", asked))["prompt"]
        if not isinstance(prompt, str):
            raise EngineError("only one prompt of text is measured")
        text = {"content": prompt, "add_special": True, "parse_special": True}
        return len((await self.ask_json("POST", "/tokenize", text))["tokens"])


class _Named(msgspec.Struct):
    model: str = ""


def _numbered(tags: Sequence[str]) -> Iterator[tuple[int, str]]:
    for tag in tags:
        if tag.startswith(ADAPTER_TAG):
            number, _, name = tag[len(ADAPTER_TAG) :].partition("=")
            yield int(number), name


def llamacpp_command(settings: Settings) -> Command:
    """Return what starts a server."""
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    return Command(
        words=(sys.executable, "-m", "plenum.adapters.engines.llamacpp_process"),
        env=env | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        told=msgspec.json.encode(settings) + b"\n",
        ready_s=READY_S,
    )


def launch_llamacpp(settings: Settings) -> LlamaCpp:
    """Return an engine that starts its own server."""
    return LlamaCpp(
        url_of(settings.host, settings.port, tls=settings.certificate is not None),
        key=settings.key,
        certificate_sha256=sha256_of(settings.certificate),
        server=Server(lambda: llamacpp_command(settings)),
    )


def llamacpp_settings(
    endpoint: Endpoint,
    weights: Path,
    *,
    host: str,
    port: int,
    key: str,
    digest: str,
    caches: Path | None,
    certificate: OwnCertificate | None = None,
) -> Settings:
    """Return the settings for a replica of an endpoint.

    Raises
    ------
    FieldError
        Arguments that are not known, or adapters that it cannot load.
    """
    given = _arguments(endpoint.arguments)
    if endpoint.adapters and "embeddings" in given:
        raise FieldError("spec.adapters", "llama.cpp computes embeddings without adapters; leave one of both out")
    return Settings(
        path=str(gguf_in(weights)),
        host=host,
        port=port,
        name=endpoint.model_name,
        key=key,
        digest=digest,
        caches=str(caches)
        if caches and find_spec("aiohttp")
        else "",  # which serves hand-offs, and comes with an extra
        slots=endpoint.slots or DEFAULT_SLOTS,
        context_tokens=endpoint.context_tokens or DEFAULT_CONTEXT_TOKENS,
        threads=given.get("threads", threads_of(endpoint)),
        batch_tokens=given.get("batch", BATCH_TOKENS),
        # It does not tell prompts of one adapter from those of another in that cache (ggml-org/llama.cpp#26207).
        cache_mib=0 if endpoint.adapters else given.get("cache-mib", CACHE_MIB),
        embeddings=bool(given.get("embeddings", 0)),
        adapters=tuple((name, str(_adapter(name, Path(place)))) for name, place in endpoint.adapters),
        certificate=certificate,
    )


def threads_of(endpoint: Endpoint) -> int:
    """Return how many threads a replica should compute with: the cores that it was given, at least one."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = max(pool.request.cpu_milli for pool in endpoint.pools) // 1000
    return max(int(given) if given.isdigit() else cores, 1)


def _adapter(name: str, place: Path) -> Path:
    try:
        return gguf_in(place)
    except WeightsError as error:
        hint = "llama.cpp takes adapters as GGUF; its convert_lora_to_gguf.py makes one of PEFT's files"
        raise FieldError("spec.adapters", f"{name}: {error.sentence}. {hint}") from None


_KNOWN = ("embeddings", "threads", "batch", "cache-mib")


def _arguments(words: tuple[str, ...]) -> dict[str, int]:
    """Read ``--embeddings``, ``--threads 4``, ``--batch 512``, ``--cache-mib 64``."""
    given: dict[str, int] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in _KNOWN:
            known = ", ".join(f"--{each}" for each in _KNOWN)
            raise FieldError(
                "spec.arguments", f"{word!r} is unknown; of llama.cpp's settings these can be given: {known}"
            )
        if name == "embeddings":
            given[name] = 1
            continue
        value = value or (left.pop(0) if left else "")
        if not value.isdigit() or len(value) > 9:
            raise FieldError("spec.arguments", f"--{name} takes a whole number, not {value!r}")
        given[name] = int(value)
    return given
