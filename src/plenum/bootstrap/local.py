"""This host as a node: what its jobs get of the environment that Plenum itself runs in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from plenum.adapters.nodes.launch import base_environment
from plenum.adapters.nodes.local import LocalDriver


def local_driver(folder: Path, node: str, *, checkpoints: Path | None = None) -> LocalDriver:
    """Return a driver for this host; jobs find Plenum's own interpreter, and with it NumPy, as ``python`` before any other.

    Parameters
    ----------
    checkpoints
        Folder that all nodes of a gang see; None: one in ``folder``.

    Raises
    ------
    PlenumError
        Another driver works in the folder.
    """
    env = base_environment()
    env["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), env["PATH"]))
    return LocalDriver(folder, node, checkpoint_root=checkpoints, environment=env)
