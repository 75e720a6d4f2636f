"""Solvers over the constraint graph: what goes where.

Way in: :func:`place` (pure: a view and what is pending in, a plan out) and :class:`Engine` (the same decisions, kept
incremental for callers that make many).
"""
