"""The calibration that ships."""

from plenum.serving.calibration import UNCALIBRATED

SHIPPED = UNCALIBRATED
"""It."""
