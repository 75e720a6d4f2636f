"""Benchmarks: ratios against a baseline measured in the same run, absolute figures beside them. Way in: ``make bench``."""
