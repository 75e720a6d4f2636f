"""One decision cycle: order, place, explain.

Way in: :func:`decide` (a view and what is pending in, a plan with full reasons out) and :func:`explain` (why one workload waits,
who is in the way, what would help; every answer comes from running the same engine).
"""

from plenum.scheduling.decide import decide
from plenum.scheduling.explain import explain

__all__ = ["decide", "explain"]
