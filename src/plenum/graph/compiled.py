"""How the loops are compiled: as functions that only other compiled functions call, which halves the time that compiling takes."""

from __future__ import annotations

from typing import Any

from numba import njit

_CALLED: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False}
_INNER: dict[str, Any] = _CALLED | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

inner = njit(**_INNER)
"""For what is called by compiled code only and allocates nothing. Arrays belong to the caller of the loop, so nobody counts references;
nobody divides by zero on purpose, so nobody checks."""

small = njit(inline="always", **_INNER)
"""The same for a line or two, or for what is called in one place."""

outer = njit(cache=True)
"""For what Python calls."""

entry = njit(**_CALLED)
"""For what Python calls, and what allocates nothing either."""
