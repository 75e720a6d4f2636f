"""Where the public traces lie on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import plenum
from plenum.model.errors import FileError, Where

VARIABLE = "PLENUM_DATA"
BESIDE = Path("..") / "shared" / "data"


def find_data(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the data folder: the one named, ``$PLENUM_DATA``, or ``../shared/data`` beside here or the source tree.

    Parameters
    ----------
    named
        What the person asked for; then nothing else will do.

    Returns
    -------
    Path or None
        None where there is none and none was asked for.

    Raises
    ------
    FileError
        The folder that was named, or that the variable names, is not there.
    """
    wanted, source = (named, "--data") if named else (environ.get(VARIABLE), f"${VARIABLE}")
    if wanted:
        folder = Path(wanted)
        if not folder.is_dir():
            raise FileError(
                f"{source} names no folder; it should hold the traces, such as openb/, mooncake/ or azure-llm/",
                Where(file=str(folder)),
            )
        return folder
    source_tree = Path(plenum.__file__).resolve().parents[2]
    return next((folder for folder in (BESIDE, source_tree / BESIDE) if folder.is_dir()), None)
