"""Weights in S3 or a store that speaks it; credentials and address are the node's own (``AWS_*``, ``AWS_ENDPOINT_URL_S3``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from plenum.adapters.weights.digests import MAX_FILES
from plenum.adapters.weights.listings import AwayError, BrokenError, Item, Listing, checked
from plenum.adapters.weights.references import Reference, UnknownWeightsError, WeightsError
from plenum.model.errors import MissingExtraError

PIECE_BYTES = 1 << 18
_AWAY = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "ProxyConnectionError",
)


@contextmanager
def list_bucket(reference: Reference) -> Iterator[Listing]:
    """Give the objects under a prefix, or the one object of that name.

    Raises
    ------
    UnknownWeightsError
        There is no such bucket, or nothing under the prefix.
    AwayError
        The store does not answer.
    WeightsError
        It refuses.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise MissingExtraError("weights in S3 need boto3: pip install 'plenum-os[weights]'") from None
    config = Config(connect_timeout=10, read_timeout=30, retries={"max_attempts": 3, "mode": "standard"})
    try:
        client: Any = boto3.Session().client("s3", config=config)
    except Exception as error:
        raise _meant(error, reference) from None
    with closing(client):
        yield _listing(client, reference)


def _listing(client: Any, reference: Reference) -> Listing:
    try:
        objects = list(_objects(client, reference))
    except Exception as error:
        raise _meant(error, reference) from None
    single = len(objects) == 1 and objects[0]["Key"] == reference.within
    strip = len(reference.within.rpartition("/")[0]) + 1 if single and "/" in reference.within else 0
    if not single and reference.within:
        strip = len(reference.within) + 1
    items = [_item(client, reference, found, strip) for found in objects if not found["Key"].endswith("/")]
    return checked(reference.text, items, single=single)


def _objects(client: Any, reference: Reference) -> Iterator[dict[str, Any]]:
    """Yield the object of just that name, or those of the folder of that name."""
    prefix = reference.within
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=reference.place, Prefix=prefix)
    count = 0
    for page in pages:
        for found in page.get("Contents", ()):
            if prefix and found["Key"] != prefix and not found["Key"].startswith(prefix + "/"):
                continue  # s3://b/llama is not s3://b/llama-large
            count += 1
            if count > MAX_FILES:
                raise WeightsError(f"{reference.text} has more than {MAX_FILES:,} objects")
            yield found


def _item(client: Any, reference: Reference, found: dict[str, Any], strip: int) -> Item:
    key, etag = found["Key"], found["ETag"]

    @contextmanager
    def read(offset: int) -> Iterator[Iterator[bytes]]:
        try:
            answer = client.get_object(Bucket=reference.place, Key=key, Range=f"bytes={offset}-", IfMatch=etag)
        except Exception as error:
            raise broken(error) from None
        with closing(answer["Body"]) as body:
            yield pieces(body)

    def pieces(body: Any) -> Iterator[bytes]:
        try:
            yield from body.iter_chunks(PIECE_BYTES)
        except Exception as error:
            raise broken(error) from None

    def broken(error: Exception) -> WeightsError:
        meant = _meant(error, reference)
        return BrokenError(f"{key} broke off") if isinstance(meant, AwayError) else meant

    return Item(name=key[strip:], size_bytes=found["Size"], version=etag, read=read)


def _meant(error: Exception, reference: Reference) -> WeightsError:
    """Return what an error of boto3's means; its text stays out, for it may quote what was signed."""
    if isinstance(error, WeightsError):
        return error
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind = type(error).__name__
    if code in ("NoSuchBucket", "NoSuchKey", "404"):
        return UnknownWeightsError(f"there is no {reference.text}")
    if kind in ("NoCredentialsError", "PartialCredentialsError") or status in (401, 403):
        return WeightsError(f"{reference.text} may not be read with this node's credentials ({code or kind})")
    if code in ("PreconditionFailed", "412"):
        return WeightsError(f"{reference.text} was changed while it was fetched; try again")
    if status >= 500 or kind in _AWAY or isinstance(error, OSError) or "Stream" in kind or "Read" in kind:
        return AwayError(f"the store of {reference.text} does not answer ({code or kind})")
    return WeightsError(f"{reference.text} cannot be read ({code or kind})")
