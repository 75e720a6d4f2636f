"""Write the calibration that ships, from the public measurements: constants and spreads, no measured row.

python tools/calibrate_serving.py $PLENUM_DATA/serving-profiles
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plenum.adapters.measurements import read_measurements
from plenum.serving.calibration import TPOT_SPREAD, TTFT_SPREAD, Calibration, Spread, group_of
from plenum.serving.fitting import calibrate, physics_residuals
from plenum.serving.measured import measured
from plenum.serving.roofline import EFFICIENCY_FIELDS, efficiency_array

POWER = ("awake", "memory_power", "compute_power", "peak_power")
LEAST_POINTS = 5
"""Points of a group below which its mean says little."""

TARGET = Path(__file__).resolve().parents[1] / "src/plenum/serving/catalogue/calibrated.py"

HEAD = '''"""The calibration that ships: written by ``tools/calibrate_serving.py``, not by hand.

Fitted to {count:,} points of three engines on three kinds of accelerator (NVIDIA aiconfigurator-core 0.12.0, ``silicon_sample.csv``,
Apache-2.0); the constants of power to those of DGX A100 in splitwise-sim (MIT; arXiv 2311.18677). What stands here are fitted
constants, mean residuals of groups of points, and how far single points lie from them.
"""

from __future__ import annotations

from plenum.serving.calibration import Calibration, Spread
from plenum.serving.roofline import Efficiency

# fmt: off
'''


def main() -> None:
    """Fit, and write the table."""
    folder = Path(sys.argv[1])
    points = measured(read_measurements(folder / "end_to_end_ttft_tpot.csv.gz"))
    found = calibrate(points, name="public measurements")
    power = calibrate(measured(read_measurements(folder / "splitwise_perf_model.csv.gz")))
    watts = {name: getattr(next(iter(power.efficiencies.values())), name) for name in POWER}
    residuals = physics_residuals(points, Calibration(efficiencies=found.efficiencies))
    groups: dict[str, list[int]] = defaultdict(list)
    for i, instance in enumerate(points.instances):
        groups[group_of(instance)].append(i)
    offsets = {g: np.median(residuals[r], axis=0) for g, r in sorted(groups.items()) if len(r) >= LEAST_POINTS}
    within = np.concatenate([residuals[r] - np.median(residuals[r], axis=0) for r in groups.values()])
    means = np.array(list(offsets.values()))
    lines = [HEAD.format(count=len(points)), "_EFFICIENCIES = {\n"]
    for key, eff in found.efficiencies.items():
        values = dict(zip(EFFICIENCY_FIELDS, efficiency_array(eff), strict=True)) | watts
        lines.append(f'    "{key}": Efficiency(\n')
        parts = [f"{name}={value:.3g}" for name, value in values.items()]
        lines += [f"        {', '.join(parts[k : k + 6])},\n" for k in range(0, len(parts), 6)]
        lines.append("    ),\n")
    lines.append("}\n\n_OFFSETS = {\n")
    lines += [f'    "{group}": ({pair[0]:.3f}, {pair[1]:.3f}),\n' for group, pair in offsets.items()]
    lines.append("}\n# fmt: on\n\n")
    lines.append('SHIPPED = Calibration(\n    name="public measurements of NVIDIA and of splitwise-sim",\n')
    lines.append("    efficiencies=_EFFICIENCIES,\n    offsets=_OFFSETS,\n")
    for k, (name, spread) in enumerate((("tpot", TPOT_SPREAD), ("ttft", TTFT_SPREAD))):
        lines.append(f"    {name}_spread={_spread(within[:, k], means[:, k], spread)},\n")
    lines.append(')\n"""Used wherever no other calibration is given."""\n')
    TARGET.write_text("".join(lines))


def _spread(within: NDArray[np.float64], means: NDArray[np.float64], guess: Spread) -> str:
    point = float(np.quantile(np.abs(within), 0.9)) / 1.645
    group = max(float(np.quantile(np.abs(means), 0.9)) / 1.645, guess.group)
    return f"Spread(point={point:.2f}, group={group:.2f}, hardware={guess.hardware}, engine={guess.engine})"


if __name__ == "__main__":
    main()
