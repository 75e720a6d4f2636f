"""The nouns: frozen types, units and errors. Everything imports this room; it imports nothing of ours.

Way in: :class:`Fleet` (hardware), :class:`Workload` (what is asked for), :class:`View` (a fleet and what
runs on it), :class:`Plan` (what to do).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plenum.model.errors import FieldError, InvariantError, PlenumError, Where
    from plenum.model.fleet import AXES, CPU, GPU, GPU_MILLI, MEMORY, PODS, POWER, Axis, DeviceKind, Fleet, Health
    from plenum.model.plan import Blocker, CommunicationCost, Counterfactual, Gap, Placement, Plan, Reason
    from plenum.model.view import Rows, View
    from plenum.model.workload import Apart, Kind, Parallelism, Request, Role, Together, Workload

__all__ = [
    "AXES",
    "CPU",
    "GPU",
    "GPU_MILLI",
    "MEMORY",
    "PODS",
    "POWER",
    "Apart",
    "Axis",
    "Blocker",
    "CommunicationCost",
    "Counterfactual",
    "DeviceKind",
    "FieldError",
    "Fleet",
    "Gap",
    "Health",
    "InvariantError",
    "Kind",
    "Parallelism",
    "Placement",
    "Plan",
    "PlenumError",
    "Reason",
    "Request",
    "Role",
    "Rows",
    "Together",
    "View",
    "Where",
    "Workload",
]

_PLACES = {
    "FieldError": "errors",
    "InvariantError": "errors",
    "PlenumError": "errors",
    "Where": "errors",
    "AXES": "fleet",
    "CPU": "fleet",
    "GPU": "fleet",
    "GPU_MILLI": "fleet",
    "MEMORY": "fleet",
    "PODS": "fleet",
    "POWER": "fleet",
    "Axis": "fleet",
    "DeviceKind": "fleet",
    "Fleet": "fleet",
    "Health": "fleet",
    "Blocker": "plan",
    "CommunicationCost": "plan",
    "Counterfactual": "plan",
    "Gap": "plan",
    "Placement": "plan",
    "Plan": "plan",
    "Reason": "plan",
    "Rows": "view",
    "View": "view",
    "Apart": "workload",
    "Kind": "workload",
    "Parallelism": "workload",
    "Request": "workload",
    "Role": "workload",
    "Together": "workload",
    "Workload": "workload",
}
"""Name to the module it is in. They are imported when asked for: NumPy takes longer than `plenum --help` may."""


def __getattr__(name: str) -> Any:
    """Import the module of a name on its first use."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
