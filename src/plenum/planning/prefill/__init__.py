"""Prefill split between a remote site and the one that decodes: threshold, pools and rate.

Way in: :func:`~plenum.planning.prefill.split.plan_prefill`.
"""
