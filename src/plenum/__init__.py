"""Plenum: an operating system for AI data centres.

One constraint graph over a fleet's accelerators, memory, storage, fabric and power; one pure
function that decides on it; an explanation for every decision.
"""

__version__ = "0.1.0"
