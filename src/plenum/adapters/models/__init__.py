"""Reads what a model is made of from the files that it comes with.

Way in: :func:`read_architecture` takes a ``config.json`` of Hugging Face, a folder that has one, or a GGUF file; of the latter only the
header is read. :func:`find_architecture` takes a name of the catalogue as well.
"""

from __future__ import annotations

from pathlib import Path

from plenum.adapters.models.gguf import GGUF_MAGIC, read_gguf
from plenum.adapters.models.hugging_face import read_config
from plenum.model.errors import FileError, Where
from plenum.serving.architecture import Architecture
from plenum.serving.catalogue.models import model_named


def find_architecture(name_or_path: str, field: str = "model") -> Architecture:
    """Return the architecture in a file or folder if there is one of that name, else the one that the catalogue has.

    Raises
    ------
    FileError
        The file is not a model.
    UnknownModelError
        There is neither such a file nor such a model.
    """
    path = Path(name_or_path or "-")  # an empty path would be the folder that one stands in
    if path.suffix in (".json", ".gguf") or _is_there(path):
        return read_architecture(path)
    return model_named(name_or_path, field)


def read_architecture(path: Path) -> Architecture:
    """Read the architecture of a model from its ``config.json``, from the folder that holds one, or from a GGUF header.

    Raises
    ------
    FileError
        Missing, unreadable, or neither of the two.
    FieldError
        A value in it cannot be meant, or its ``model_type`` is not known.
    """
    if path.is_dir():
        path = path / "config.json"
    try:
        with path.open("rb") as stream:
            start = stream.read(len(GGUF_MAGIC))
    except FileNotFoundError:
        raise FileError("there is no such file", Where(file=str(path))) from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", Where(file=str(path))) from None
    return read_gguf(path) if start == GGUF_MAGIC else read_config(path)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
