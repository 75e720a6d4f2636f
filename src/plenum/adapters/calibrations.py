"""Calibrations on disk: JSON documents with a version."""

from __future__ import annotations

import json
from pathlib import Path

from plenum.adapters.imports.source import read_text
from plenum.model.errors import FieldError, FileError, Where
from plenum.serving.calibration import Calibration, from_document, to_document

FILE_LIMIT_BYTES = 16 * 2**20


def read_calibration(path: Path) -> Calibration:
    """Read what :func:`write_calibration` wrote.

    Raises
    ------
    FileError
        Missing, unreadable, too large, or no JSON object.
    CalibrationError
        Of a version that is not known, or with values that cannot be meant.
    """
    try:
        document = json.loads(read_text(path, FILE_LIMIT_BYTES))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise FileError("is no calibration; `plenum plan calibrate` writes one", Where(file=str(path)))
    try:
        return from_document(document)
    except FieldError as error:
        raise error.located(file=str(path)) from None


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration.

    Raises
    ------
    FileError
        The file cannot be written.
    """
    try:
        path.write_text(json.dumps(to_document(calibration)) + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror}", Where(file=str(path))) from None
