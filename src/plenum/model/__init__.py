"""The nouns: frozen types, units and errors. Everything imports this room; it imports nothing of ours.

Way in: :class:`Fleet` (hardware), :class:`Workload` (what is asked for), :class:`View` (a fleet and what
runs on it), :class:`Plan` (what to do).
"""

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
