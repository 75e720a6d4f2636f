"""How long tests wait for what must happen."""

PATIENCE_S = 120.0
"""Seconds, which pass only where something is broken: a busy machine may take a minute to start a process."""
