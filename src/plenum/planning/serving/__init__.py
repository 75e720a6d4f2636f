"""How to serve a model: options, loads, pools, the frontier, a recommendation, and what it is written as.

Way in: :func:`~plenum.planning.serving.plan.plan_serving` answers a :class:`~plenum.planning.serving.question.Question` with a
plan, or with the limit that binds.
"""
