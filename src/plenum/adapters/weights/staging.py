"""Brings weights to a node: what is local is checked where it lies, the rest is fetched into the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plenum.adapters.weights.digests import Progress, digest_at, quiet
from plenum.adapters.weights.references import DigestError, UnknownWeightsError, WeightsError, read_reference

GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """Weights that are here and whole.

    Parameters
    ----------
    path
        The file where the weights are one, else their folder.
    digest
        ``sha256:`` and 64 hexadecimal digits; of a folder, of the list of its files.
    """

    path: Path
    digest: str
    size_bytes: int


def stage(reference: str, cache: Path, *, progress: Progress = quiet, digest: str = "", afresh: bool = False) -> Staged:
    """Bring weights here and return where they are.

    Parameters
    ----------
    reference
        A name of the catalogue (``smollm2``), an absolute path, ``hf://org/name[@revision][/file]``, ``s3://bucket/prefix`` or
        ``oci://registry/repository:tag``.
    cache
        This node's folder of weights, made if absent.
    progress
        Told the bytes done and in all, many times; what it raises ends the work, and the next call goes on where it stopped.
    digest
        What the weights must be; empty: whatever is there.
    afresh
        Read every byte again, though nothing seems to have changed.

    Raises
    ------
    UnknownWeightsError
        There are no such weights.
    DigestError
        They are not what ``digest`` or their publisher says.
    WeightsError
        They cannot be fetched, read or kept here.
    """
    wanted = read_reference(reference)
    if wanted.kind == "local":
        staged = _local(Path(wanted.place), cache, progress, afresh)
    else:
        raise WeightsError(f"{reference} cannot be fetched yet")
    if digest and staged.digest != digest:
        raise DigestError(f"{reference} is {staged.digest}, not {digest} as asked for")
    return staged


def gguf_in(path: Path) -> Path:
    """Return the GGUF file of some weights: the file itself, or the folder's one (of a split one, the first part).

    Raises
    ------
    UnknownWeightsError
        There is none, or more than one model.
    """
    if path.is_file():
        files = [path]
    else:
        files = sorted(path.rglob("*.gguf"))
        firsts = [file for file in files if "-00001-of-" in file.name]
        files = firsts or files
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5]) or "none"
        raise UnknownWeightsError(f"{path} must hold one GGUF model; found: {names}. Name the file itself")
    with files[0].open("rb") as stream:
        if stream.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
            raise WeightsError(f"{files[0]} is no GGUF file")
    return files[0]


def _local(path: Path, cache: Path, progress: Progress, afresh: bool) -> Staged:
    try:
        path = path.resolve(strict=True)  # a link to the weights is the operator's own way of naming them
    except OSError:
        raise UnknownWeightsError(f"there is nothing at {path}") from None
    found, size_bytes = digest_at(path, cache / "digests", progress, afresh=afresh)
    return Staged(path=path, digest=found, size_bytes=size_bytes)
