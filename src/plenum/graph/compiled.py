"""How the loops are compiled: each once, and as functions that only other compiled functions call, in a third of the time.

Left alone, Numba compiles a function, and all that it calls, again for each kind of number that it is called with: for a literal, for an
integer where others pass a float. Here annotations say which kind it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit, types
from numba.core.dispatcher import Dispatcher
from numba.core.sigutils import normalize_signature

_PLAIN: dict[str, Any] = {"float": types.float64, "int": types.int64, "bool": types.boolean}


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator: ``njit`` with these options, arguments being of the kind that annotations say."""

    def decorated(function: Callable[..., Any]) -> Any:
        dispatcher = njit(cache=True, **options)(function)
        if not isinstance(dispatcher, Dispatcher):  # nothing is to be compiled: NUMBA_DISABLE_JIT
            return dispatcher
        wanted = [_PLAIN.get(each.annotation) for each in inspect.signature(function).parameters.values()]
        compile_for = dispatcher.compile

        def compile_as_annotated(sig: Any) -> Any:
            given, _ = normalize_signature(sig)
            return compile_for(tuple(map(_plain, given, wanted)))

        dispatcher.compile = compile_as_annotated
        return dispatcher

    return decorated


def _plain(given: Any, wanted: Any) -> Any:
    """Return the type to compile for: a number becomes what is wanted, unless that would cut it off; anything else stays."""
    kind = types.unliteral(given)
    if wanted is None or not isinstance(kind, (types.Integer, types.Boolean, types.Float)):
        return kind
    return kind if isinstance(kind, types.Float) and wanted is not types.float64 else wanted


_CALLED: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
_INNER: dict[str, Any] = _CALLED | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

inner = _compiled(**_INNER)
"""For what is called by compiled code only and allocates nothing. Arrays belong to the caller of the loop, so nobody counts references;
nobody divides by zero on purpose, so nobody checks."""

small = njit(inline="always", cache=True, **_INNER)
"""The same for a line or two, or for what is called in one place."""

outer = _compiled()
"""For what Python calls."""

entry = _compiled(**_CALLED)
"""For what Python calls, and what allocates nothing either."""
