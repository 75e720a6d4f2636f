"""What a training run takes: layout, memory, step time, failures, cost.

Way in: :func:`~plenum.planning.training.plan.plan_training`.
"""
