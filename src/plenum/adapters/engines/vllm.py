"""vLLM, started here or attached: its names for metrics, its two-step hand-off, adapters.

Hand-off as its documentation of disaggregated prefilling has it (NixlConnector): the prefill replica is asked for one token with
``do_remote_decode``, and what it returns as ``kv_transfer_params`` goes to the decode replica as it is. Where the cache is by then is its
business. A decode that cannot fetch it fails by default, of a stream after its status; with ``"kv_load_failure_policy":"recompute"``, as
it is started here, it computes the prompt itself. It samples the first token again, so that all sampling works across a hand-off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from plenum.adapters.engines.http import HttpAnswer, HttpEngine, Opening, StatusError
from plenum.adapters.engines.splitting import read_asked, split_reason
from plenum.ports.engine import CHAT, COMPLETIONS, EMBEDDINGS, Capabilities, EngineError, Handle, HandleError

PREFILL_TIMEOUT_S = 900.0

_LOAD_ADAPTER = "/v1/load_lora_adapter"

_ASK = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
_NOT_OF_PREFILL = ("stream_options", "min_tokens", "min_completion_tokens")


class Vllm(HttpEngine):
    """A vLLM server."""

    kind = "vllm"
    metric_names: Mapping[str, tuple[str, ...]] = {
        "running": ("vllm:num_requests_running",),
        "waiting": ("vllm:num_requests_waiting",),
        "cache_used": ("vllm:kv_cache_usage_perc",),
        "prompt_tokens": ("vllm:prompt_tokens_total",),
        "cached_tokens": ("vllm:prefix_cache_hits_total",),
        "output_tokens": ("vllm:generation_tokens_total",),
    }
    root = ""

    async def learn(self) -> None:
        """Ask for the model, its context and the paths served; whether it was started for hand-offs, only a prefill tells."""
        model = (await self.ask_json("GET", "/v1/models"))["data"][0]
        self.root = str(model.get("root") or model["id"])
        self._model = str(model["id"])
        paths = await self._paths()
        self.capabilities = Capabilities(
            chat=CHAT in paths,
            completions=COMPLETIONS in paths,
            embeddings=EMBEDDINGS in paths,
            tokenize="/tokenize" in paths,
            handoff=CHAT in paths,
            adapters=_LOAD_ADAPTER in paths,
            cache_salt=True,
            context_tokens=int(model.get("max_model_len") or 0),
        )

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text."""
        if not self.root:
            await self.learn()
        asked = {"model": self._model, "prompt": text, "add_special_tokens": False}
        return tuple((await self.ask_json("POST", "/tokenize", asked))["tokens"])

    async def prompt_tokens(self, path: str, body: bytes) -> int:
        """Return how many tokens a request's prompt has, its template included."""
        asked = read_asked(body)
        names = ("model", "messages", "prompt", "tools", "chat_template_kwargs", "add_generation_prompt")
        said = await self.ask_json("POST", "/tokenize", {name: asked[name] for name in names if name in asked})
        return len(said["tokens"])

    async def prefill(self, path: str, body: bytes) -> Handle:
        """Compute a prompt's cache and keep it for another replica."""
        asked = read_asked(body)
        if reason := split_reason(path, asked, first_crosses=False):
            raise HandleError(reason)
        if not self.root:
            await self.learn()
        try:
            told = await self.ask_json("POST", path, prefill_body(asked), timeout_s=PREFILL_TIMEOUT_S)
        except StatusError as error:
            if error.status >= 500:
                raise
            raise HandleError(error.sentence) from error  # what is wrong with it, the plain way says best
        params = told.get("kv_transfer_params")
        if not params:
            raise HandleError(f"{self.url} keeps no cache for others: was it started with --kv-transfer-config?")
        return Handle(
            engine=self.kind,
            model=self.root,
            data=msgspec.json.encode(params),
            prompt_tokens=int((told.get("usage") or {}).get("prompt_tokens", 0)),
        )

    def decode(self, path: str, body: bytes, handle: Handle) -> Opening:
        """As :meth:`open`, going on from a handle."""
        return VllmDecode(self, path, body, handle)

    async def load_adapter(self, name: str, source: str) -> None:
        """Load a LoRA adapter, served under its name from then on; needs ``VLLM_ALLOW_RUNTIME_LORA_UPDATING`` there.

        Raises
        ------
        EngineError
            It was refused.
        """
        body = msgspec.json.encode({"lora_name": name, "lora_path": source})
        status, said = await self.ask("POST", _LOAD_ADAPTER, body, timeout_s=PREFILL_TIMEOUT_S)
        if status != 200:
            raise EngineError(f"{self.url} does not load {name}: {status} {said[:200].decode('utf-8', 'replace')}")

    async def _paths(self) -> frozenset[str]:
        """Return the paths served; started with ``--disable-fastapi-docs`` it tells none, and those of a plain server hold."""
        try:
            return frozenset((await self.ask_json("GET", "/openapi.json"))["paths"])
        except StatusError:
            return frozenset((CHAT, COMPLETIONS, "/tokenize"))


class VllmDecode(Opening):
    """A decode request: the handle's data go along as they came."""

    __slots__ = ("_handle",)
    _engine: Vllm

    def __init__(self, engine: Vllm, path: str, body: bytes, handle: Handle) -> None:
        sent = {**read_asked(body), "kv_transfer_params": msgspec.Raw(handle.data)}
        super().__init__(engine, path, msgspec.json.encode(sent))
        self._handle = handle

    async def __aenter__(self) -> HttpAnswer:
        if not self._engine.root:
            await self._engine.learn()
        if (self._handle.engine, self._handle.model) != (self._engine.kind, self._engine.root):
            raise HandleError(f"the cache is of {self._handle.model}, this replica serves {self._engine.root}")
        return await super().__aenter__()


def prefill_body(body: dict[str, Any]) -> dict[str, Any]:
    """Return what a prefill replica is asked: the same for one token, whole, with the cache kept."""
    asked = {name: value for name, value in body.items() if name not in _NOT_OF_PREFILL}
    asked |= {"stream": False, "max_tokens": 1, "kv_transfer_params": _ASK}
    if "max_completion_tokens" in asked:
        asked["max_completion_tokens"] = 1
    return asked
