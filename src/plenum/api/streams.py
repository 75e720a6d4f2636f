"""Answers that go on: sent piece by piece to a reader who keeps up, and ended for one who does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from plenum.api.settings import ApiSettings
from plenum.model.errors import PlenumError

STREAMING = "plenum.streaming"
"""Key of a request's scope that is set where the answer takes as long as it takes."""

_LOG = logging.getLogger(__name__)


class Stream(Response):
    """A response from an iterator of pieces.

    Nothing is buffered here: the next piece is asked for when the last one has been taken. A reader who lets a piece wait for longer
    than ``settings.send_timeout_s`` is cut off, and so is everybody after ``settings.stream_s``, who may then come again.

    Parameters
    ----------
    done
        Called once, however it ends.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        media_type: str,
        headers: dict[str, str],
        settings: ApiSettings,
        done: Callable[[], None],
    ) -> None:
        super().__init__(None, 200, headers, media_type)
        # A length would promise an end.
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self._pieces = pieces
        self._settings = settings
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces until they end, the reader goes, or its time is up."""
        scope[STREAMING] = True
        gone = asyncio.ensure_future(_disconnected(receive))
        sending = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED, timeout=self._settings.stream_s)
            if not sending.done() and not gone.done():
                # The end of its life, said properly, if the reader takes it.
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
                async with asyncio.timeout(self._settings.send_timeout_s):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            if sending.done() and not sending.cancelled():
                sending.result()
        except TimeoutError:
            _LOG.info("a reader of %s was too slow and is cut off", scope.get("path"))
        finally:
            for task in (gone, sending):
                task.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)
            close = getattr(self._pieces, "aclose", None)
            if close is not None:
                await close()
            self._done()

    async def _send(self, send: Send) -> None:
        limit_s = self._settings.send_timeout_s
        async with asyncio.timeout(limit_s):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for piece in self._pieces:
                async with asyncio.timeout(limit_s):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except PlenumError as error:
            # Too late for a problem document: the stream ends, and whoever comes again is told.
            _LOG.info("a stream of %s ends: %s", self.media_type, error.sentence)
        async with asyncio.timeout(limit_s):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
