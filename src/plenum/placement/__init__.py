"""Solvers over the constraint graph: what goes where.

Way in: :func:`place` (pure: a view and what is pending in, a plan out) and :class:`Engine` (the same decisions, kept
incremental for callers that make many).
"""

from plenum.placement.decision import place
from plenum.placement.engine import Engine
from plenum.placement.policies import DEFAULT, POLICIES, Cap, Policy, policy_named

__all__ = ["DEFAULT", "POLICIES", "Cap", "Engine", "Policy", "place", "policy_named"]
