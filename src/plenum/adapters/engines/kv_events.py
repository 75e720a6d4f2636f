"""What vLLM (and SGLang, in the same words) says over ZeroMQ of the blocks that enter and leave its prefix cache.

Messages are topic, number (8 bytes) and a batch in MessagePack. Older versions write batches and events as arrays, newer ones as maps; both
are read. Numbers tell when something was missed: it is asked for again where the engine keeps it, and where it does not, everything known
of that cache is void, which is said as :class:`Cleared`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import msgspec
import zmq
import zmq.asyncio

from plenum.model.errors import PlenumError

MAX_MESSAGE_BYTES = 64 * 2**20
MAX_WAITING = 100_000
"""Messages that wait to be read; ZeroMQ drops what comes after, and the gap in the numbers shows it."""

REPLAY_TIMEOUT_S = 2.0
MAX_REPLAYED = 10_000
MAX_BLOCKS = 1_000_000
"""Of one event."""

_END = (-1).to_bytes(8, "big", signed=True)


class EventError(PlenumError):
    """A message of an engine is not what its versions are known to send."""

    code = "engine.events"


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks that follow one another have come into the cache.

    Parameters
    ----------
    blocks
        The engine's own hashes, opaque.
    parent
        The block before them; None: they are a prompt's first.
    tokens
        All of theirs, ``block_tokens`` each.
    medium
        Where they are: ``GPU``, or lower; empty: not told.
    """

    blocks: tuple[int | bytes, ...]
    parent: int | bytes | None
    tokens: tuple[int, ...]
    block_tokens: int
    adapter: str = ""
    medium: str = ""


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks are gone."""

    blocks: tuple[int | bytes, ...]
    medium: str = ""


class Cleared(msgspec.Struct, frozen=True):
    """Nothing of what was known holds any more."""


Event = Stored | Removed | Cleared


def read_batch(payload: bytes) -> tuple[Event, ...]:
    """Read one message's events; kinds that are not known are passed over.

    Raises
    ------
    EventError
        It is neither of the two encodings.
    """
    try:
        batch = msgspec.msgpack.decode(payload)
        events = batch["events"] if isinstance(batch, dict) else batch[1]
        return tuple(event for each in events if (event := _event(each)) is not None)
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
        raise EventError(f"a batch of cache events cannot be read: {error}") from error


async def watch(address: str, *, replay: str = "", topic: str = "") -> AsyncGenerator[tuple[Event, ...], None]:
    """Yield the events of an engine, in their order, for as long as one cares to listen.

    Parameters
    ----------
    address, replay
        ``tcp://host:port`` of its publisher, and of where missed messages can be had again; empty: nowhere.
    """
    context = zmq.asyncio.Context()
    try:
        with context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
            socket.set_hwm(MAX_WAITING)
            socket.setsockopt_string(zmq.SUBSCRIBE, topic)
            socket.connect(address)
            last: int | None = None
            while True:
                parts = await socket.recv_multipart()
                if len(parts) != 3 or len(parts[1]) != 8:
                    raise EventError(f"{address} sends messages of {len(parts)} parts where there should be 3")
                number = int.from_bytes(parts[1], "big")
                missed = [] if last is None and number == 0 else await _missed(context, replay, last, number)
                for events in missed:
                    yield events
                yield read_batch(parts[2])
                last = number
    finally:
        context.destroy(linger=0)


def published_at(arguments: tuple[str, ...], url: str) -> tuple[str, str]:
    """Return where an engine publishes its events and replays them, by what it was started with; empty: it does not.

    Parameters
    ----------
    arguments
        Its command line; ``--kv-events-config`` is what counts (vLLM and SGLang name it alike).
    url
        Its address, for the host.
    """
    joined = [word.partition("=")[2] for word in arguments if word.startswith("--kv-events-config=")]
    apart = [after for word, after in pairwise(arguments) if word == "--kv-events-config"]
    for text in joined + apart:
        try:
            config = msgspec.json.decode(text.encode(), type=dict[str, Any])
        except msgspec.MsgspecError:
            continue
        if config.get("publisher") == "zmq":
            host = urlsplit(url).hostname or ""
            return _at(host, str(config.get("endpoint", "tcp://*:5557"))), _at(
                host, str(config.get("replay_endpoint") or "")
            )
    return "", ""


def _at(host: str, bound: str) -> str:
    port = bound.rpartition(":")[2]
    return f"tcp://{host}:{port}" if bound.startswith("tcp://") and port.isdigit() else ""


async def _missed(context: zmq.asyncio.Context, replay: str, last: int | None, number: int) -> list[tuple[Event, ...]]:
    """Return what came between two numbers; where that is not to be had, that nothing known holds."""
    first = 0 if last is None else last + 1
    if number == first:
        return []
    before: list[tuple[Event, ...]] = []
    if last is not None and number <= last:  # it has started anew, from 0
        first = 0
        before.append((Cleared(),))
    if number == first:
        return before
    found = await _replayed(context, replay, first, number) if replay else None
    return [*before, *found] if found is not None else [(Cleared(),)]


async def _replayed(
    context: zmq.asyncio.Context, replay: str, first: int, number: int
) -> list[tuple[Event, ...]] | None:
    """Ask for messages ``first`` to ``number`` - 1; None where not all of them came."""
    found: list[tuple[Event, ...]] = []
    try:
        # Not REQ: it is one question, and an answer of many messages.
        with context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
            socket.connect(replay)
            await socket.send_multipart((b"", first.to_bytes(8, "big")))
            async with asyncio.timeout(REPLAY_TIMEOUT_S):
                for expected in range(first, min(number, first + MAX_REPLAYED)):
                    parts = await socket.recv_multipart()
                    if parts[-2] == _END or int.from_bytes(parts[-2], "big") != expected:
                        return None
                    found.append(read_batch(parts[-1]))
    except (TimeoutError, zmq.ZMQError):
        return None
    return found if len(found) == number - first else None


def _event(each: Any) -> Event | None:
    get = _by_name(each) if isinstance(each, dict) else _by_place(each)
    kind = get("type")
    if kind == "AllBlocksCleared":
        return Cleared()
    if kind == "BlockRemoved":
        return Removed(blocks=_hashes(get("block_hashes")), medium=str(get("medium") or ""))
    if kind != "BlockStored":
        return None
    adapter = get("lora_name") or get("lora_id")
    return Stored(
        blocks=_hashes(get("block_hashes")),
        parent=get("parent_block_hash"),
        tokens=tuple(int(token) for token in get("token_ids")),
        block_tokens=int(get("block_size")),
        adapter="" if adapter is None else str(adapter),
        medium=str(get("medium") or ""),
    )


_PLACES = {
    "BlockStored": (
        *("type", "block_hashes", "parent_block_hash", "token_ids", "block_size"),
        *("lora_id", "medium", "lora_name"),
    ),
    "BlockRemoved": ("type", "block_hashes", "medium"),
    "AllBlocksCleared": ("type",),
}


def _by_name(each: dict[str, Any]) -> Any:
    return each.get


def _by_place(each: list[Any]) -> Any:
    names: Iterator[str] = iter(_PLACES.get(each[0], ("type",)))
    return dict(zip(names, each, strict=False)).get


def _hashes(values: list[int | bytes]) -> tuple[int | bytes, ...]:
    if len(values) > MAX_BLOCKS:
        raise ValueError(f"{len(values):,} blocks in one event; at most {MAX_BLOCKS:,}")
    return tuple(values)
