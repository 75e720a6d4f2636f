"""Instances in one word: ``8xH200``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.serving.instance import Instance

MAX_DEVICES = 1024


def instance_on(model: str, devices: str, option: str) -> Instance:
    """Return a model on so many devices of a kind, tensor parallel over all of them.

    Parameters
    ----------
    model
        A name of the catalogue, or a file.
    devices
        ``8xH200``; ``H200`` is one.
    option
        Where ``devices`` was given.

    Raises
    ------
    FieldError
        Unknown names, or weights that do not fit.
    """
    from plenum.cli.serving_cluster import Described, instance_of

    count, times, name = devices.partition("x")
    if not (times and count.isascii() and count.isdigit()):
        count, name = "1", devices
    if not name or not 1 <= int(count[:6]) <= MAX_DEVICES:
        raise FieldError(
            option, f"must be up to {MAX_DEVICES} devices and their kind, such as 8xH200, not {devices[:60]!r}"
        )
    try:
        return instance_of(Described(model=model, hardware=name, tp=int(count[:6])))
    except FieldError as error:
        if error.where.field not in ("--hardware", "--tp"):
            raise
        # Whoever gives 8xH200 has no --tp to be told about.
        sentence = re.sub(r"--tp (\d+)", rf"\1x{name}", error.sentence).replace("(--pp) ", "")
        raise type(error)(option, sentence) from None
