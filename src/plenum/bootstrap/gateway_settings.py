"""A gateway's settings, from its file; a control plane reads those of its own too, so that what cannot be meant is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from plenum.model.errors import FileError, Where


def read_gateway_settings(path: Path | None) -> Any:
    """Return a gateway's settings: those of a file, or the defaults.

    Raises
    ------
    FileError
        It cannot be read, or holds something that is no setting.
    """
    from plenum.gateway.settings import GatewaySettings

    if path is None:
        return GatewaySettings()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=GatewaySettings)
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}", Where(file=str(path))) from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise FileError(f"is not a file of gateway settings: {error}", Where(file=str(path))) from None


def calibration_in(settings: Any) -> Any:
    """Return the :class:`~plenum.serving.calibration.Calibration` that a gateway's settings name; None: they name none.

    Raises
    ------
    PlenumError
        The file cannot be read, or is none.
    """
    from plenum.adapters.calibrations import read_calibration

    return read_calibration(Path(settings.calibration)) if settings.calibration else None
