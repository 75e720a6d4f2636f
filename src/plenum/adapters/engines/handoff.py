"""Hand-off of prefilled prompts between replicas whose engine has a second address for it: llama.cpp, emulated.

``POST /prefill`` computes and keeps a cache; ``POST /decode`` fetches it, from whichever replica keeps it, and answers as the engine would
have. A handle that cannot be used is answered with 409, and whoever asked falls back to the plain way.
"""

from __future__ import annotations

import msgspec

from plenum.adapters.engines.http import HttpAnswer, HttpEngine, Opening
from plenum.adapters.engines.wire import Wire
from plenum.model.errors import FieldError
from plenum.ports.engine import EngineError, Handle, HandleError

PREFILL, DECODE, CACHES = "/prefill", "/decode", "/caches/"
UNUSABLE = 409
"""Status of an answer that stands for :class:`HandleError`."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a replica's second address: a request, and for decode its handle."""

    path: str
    body: bytes
    handle: Handle | None = None


class HandoffClient(HttpEngine):
    """An engine with a second address for hand-offs; :meth:`learn` finds it."""

    handoff_url = ""
    _handoff_wire: Wire | None = None
    weights_digest = ""

    async def prefill(self, path: str, body: bytes) -> Handle:
        """Compute a prompt's cache and keep it for another replica."""
        async with HandoffOpening(self, PREFILL, Order(path=path, body=body)) as answer:
            said = await answer.read()
            if answer.status != 200:
                raise EngineError(
                    f"{self.url} did not prefill: {answer.status} {said[:200].decode('utf-8', 'replace')}"
                )
            try:
                return msgspec.json.decode(said, type=Handle)
            except msgspec.DecodeError as error:
                raise EngineError(f"{self.url} answers a prefill with something else than a handle: {error}") from error

    def decode(self, path: str, body: bytes, handle: Handle) -> HandoffOpening:
        """As :meth:`open`, going on from a handle."""
        return HandoffOpening(self, DECODE, Order(path=path, body=body, handle=handle))

    async def handoff_wire(self) -> Wire:
        """Return the connections to the second address.

        Raises
        ------
        HandleError
            It has none.
        """
        if not self.handoff_url:
            await self.learn()
        if not self.handoff_url:
            raise HandleError(f"the engine at {self.url} was started without hand-offs")
        if self._handoff_wire is None:
            try:
                self._handoff_wire = Wire(self.handoff_url, self.headers, self.certificate_sha256)
            except FieldError as error:
                raise HandleError(
                    f"the engine at {self.url} names no address for hand-offs: {error.sentence}"
                ) from error
        return self._handoff_wire

    async def close(self) -> None:
        """Close connections, those to the second address too."""
        await super().close()
        if self._handoff_wire is not None:
            self._handoff_wire.close()


class HandoffOpening(Opening):
    """A request to the second address."""

    __slots__ = ("_order",)
    _engine: HandoffClient

    def __init__(self, engine: HandoffClient, path: str, order: Order) -> None:
        super().__init__(engine, path, msgspec.json.encode(order))
        self._order = order

    async def __aenter__(self) -> HttpAnswer:
        handle = self._order.handle
        if handle is not None and handle.engine != self._engine.kind:
            raise HandleError(f"a handle of {handle.engine} is of no use to {self._engine.kind}")
        self._wire = await self._engine.handoff_wire()
        answer = await super().__aenter__()
        if answer.status == UNUSABLE:
            try:
                raise HandleError((await answer.read()).decode("utf-8", "replace")[:500])
            finally:
                await self.__aexit__(None, None, None)
        return answer
