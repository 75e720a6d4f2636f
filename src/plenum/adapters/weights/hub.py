"""Weights on the Hugging Face Hub, or on a mirror of it (``HF_ENDPOINT``); the token is the node's own (``HF_TOKEN``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import httpx

from plenum.adapters.weights.http_files import new_client, read_from
from plenum.adapters.weights.listings import AwayError, Item, Listing, checked
from plenum.adapters.weights.references import Reference, UnknownWeightsError, WeightsError
from plenum.model.errors import MissingExtraError

USUAL = "https://huggingface.co"

_OTHER_FORMATS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".ckpt")
"""Of the same weights; left out where there are safetensors, which hold no code."""


@contextmanager
def list_hub(reference: Reference) -> Iterator[Listing]:
    """Give the files of a repository at a revision, or one of them.

    Raises
    ------
    UnknownWeightsError
        There is no such repository, revision or file.
    AwayError
        The Hub does not answer.
    WeightsError
        It refuses.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.utils import build_hf_headers
    except ImportError:
        raise MissingExtraError("weights from the Hub need huggingface_hub: pip install 'plenum-os[weights]'") from None
    endpoint = os.environ.get("HF_ENDPOINT", USUAL).rstrip("/")
    try:
        info = HfApi(endpoint=endpoint).model_info(
            reference.place, revision=reference.version or None, files_metadata=True, timeout=30.0
        )
    except HfHubHTTPError as error:
        raise _refusal(reference, error.response.status_code) from None
    except HFValidationError as error:
        raise UnknownWeightsError(f"{reference.text} is no repository: {error}") from None
    except Exception as error:  # its HTTP library's own errors, which have changed before
        raise AwayError(f"the Hub at {endpoint} does not answer: {type(error).__name__}") from None
    headers = build_hf_headers()
    with new_client() as client:

        def item(file: Any) -> Item:
            name, sha256 = file.rfilename, file.lfs.sha256 if file.lfs else ""
            url = hf_hub_url(reference.place, name, revision=info.sha, endpoint=endpoint)
            return Item(
                name=name.rpartition("/")[2] if reference.within else name,
                size_bytes=file.size or 0,
                version=sha256 or file.blob_id or "",
                sha256=sha256,
                read=partial(_read, client, url, headers, name),
            )

        names = _wanted([file.rfilename for file in info.siblings or ()], reference)
        items = [item(file) for file in info.siblings or () if file.rfilename in names]
        yield checked(reference.text, items, single=bool(reference.within))


def _wanted(names: list[str], reference: Reference) -> set[str]:
    if reference.within:
        return {name for name in names if name == reference.within}
    plain = {name for name in names if not any(part.startswith(".") for part in name.split("/"))}
    if any(name.endswith(".safetensors") for name in plain):
        plain = {name for name in plain if not name.endswith(_OTHER_FORMATS)}
    return plain


def _read(
    client: httpx.Client, url: str, headers: dict[str, str], name: str, offset: int
) -> AbstractContextManager[Iterator[bytes]]:
    return read_from(client, url, offset, headers, name)


def _refusal(reference: Reference, status: int) -> WeightsError:
    # The Hub answers 401 for repositories that are not there, so as not to tell which are.
    if status in (401, 403, 404):
        return UnknownWeightsError(
            f"there is no {reference.text}, or this node may not read it; a gated or private one needs $HF_TOKEN there"
        )
    kind = AwayError if status >= 500 or status in (408, 429) else WeightsError
    return kind(f"the Hub answers {status} for {reference.text}")
