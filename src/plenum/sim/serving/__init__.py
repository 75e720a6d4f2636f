"""Simulated LLM serving: iteration by iteration, in compiled loops.

Way in: ``simulate``.
"""
