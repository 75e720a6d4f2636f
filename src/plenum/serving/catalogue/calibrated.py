"""The calibration that ships: written by ``tools/calibrate_serving.py``, not by hand.

Fitted to 2,238 points of three engines on three kinds of accelerator (NVIDIA aiconfigurator-core 0.12.0, ``silicon_sample.csv``,
Apache-2.0); the constants of power to those of DGX A100 in splitwise-sim (MIT; arXiv 2311.18677). What stands here are fitted
constants, mean residuals of groups of points, and how far single points lie from them.
"""

from __future__ import annotations

from plenum.serving.calibration import Calibration, Spread
from plenum.serving.roofline import Efficiency

# fmt: off
_EFFICIENCIES = {
    "": Efficiency(
        compute=0.77, experts=0.382, attention=0.578, narrow=0.675, memory=0.924, expert_memory=0.735,
        cache_memory=0.733, network=0.39, layer_s=5.75e-05, expert_layer_s=2.63e-05, latent_layer_s=3.04e-05, step_s=0.00137,
        sequence_s=4.99e-05, collective_s=5.99e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.1, queueing=0.807, burst=0.203,
    ),
    "sglang": Efficiency(
        compute=0.972, experts=0.414, attention=0.555, narrow=0.427, memory=1, expert_memory=0.794,
        cache_memory=0.567, network=0.511, layer_s=5.54e-05, expert_layer_s=3.38e-05, latent_layer_s=3.68e-05, step_s=0.00141,
        sequence_s=5.57e-05, collective_s=5.93e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.202, queueing=0.751, burst=0.279,
    ),
    "sglang|B200": Efficiency(
        compute=0.945, experts=0.416, attention=0.533, narrow=0.459, memory=1, expert_memory=0.797,
        cache_memory=0.557, network=0.422, layer_s=5.57e-05, expert_layer_s=3.42e-05, latent_layer_s=3.66e-05, step_s=0.00141,
        sequence_s=5.33e-05, collective_s=5.93e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.264, queueing=0.745, burst=0.322,
    ),
    "sglang|H100": Efficiency(
        compute=0.972, experts=0.414, attention=0.574, narrow=0.458, memory=1, expert_memory=0.794,
        cache_memory=0.623, network=0.611, layer_s=5.03e-05, expert_layer_s=3.38e-05, latent_layer_s=3.68e-05, step_s=0.00141,
        sequence_s=5.52e-05, collective_s=5.82e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.222, queueing=0.767, burst=0.327,
    ),
    "sglang|H200": Efficiency(
        compute=0.926, experts=0.443, attention=0.551, narrow=0.437, memory=1, expert_memory=0.908,
        cache_memory=0.477, network=0.538, layer_s=6.04e-05, expert_layer_s=3.52e-05, latent_layer_s=3.79e-05, step_s=0.00143,
        sequence_s=5.89e-05, collective_s=5.99e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.208, queueing=0.741, burst=0.255,
    ),
    "trtllm": Efficiency(
        compute=0.681, experts=0.404, attention=0.58, narrow=0.828, memory=1, expert_memory=0.724,
        cache_memory=0.794, network=0.35, layer_s=5.25e-05, expert_layer_s=2.31e-05, latent_layer_s=2.96e-05, step_s=0.00138,
        sequence_s=4.56e-05, collective_s=5.91e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.111, queueing=0.847, burst=0.195,
    ),
    "trtllm|B200": Efficiency(
        compute=0.719, experts=0.417, attention=0.632, narrow=0.899, memory=1, expert_memory=0.823,
        cache_memory=0.722, network=0.321, layer_s=4.78e-05, expert_layer_s=1.71e-05, latent_layer_s=2.84e-05, step_s=0.00131,
        sequence_s=4.18e-05, collective_s=6.08e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.109, queueing=0.879, burst=0.206,
    ),
    "trtllm|H100": Efficiency(
        compute=0.645, experts=0.409, attention=0.587, narrow=0.698, memory=1, expert_memory=0.8,
        cache_memory=0.733, network=0.344, layer_s=5.49e-05, expert_layer_s=2.32e-05, latent_layer_s=3.34e-05, step_s=0.00137,
        sequence_s=4.46e-05, collective_s=5.95e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.117, queueing=0.879, burst=0.189,
    ),
    "trtllm|H200": Efficiency(
        compute=0.782, experts=0.402, attention=0.564, narrow=0.96, memory=1, expert_memory=0.686,
        cache_memory=0.878, network=0.386, layer_s=6.15e-05, expert_layer_s=3.25e-05, latent_layer_s=2.94e-05, step_s=0.00143,
        sequence_s=4.77e-05, collective_s=6.08e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.117, queueing=0.817, burst=0.189,
    ),
    "vllm": Efficiency(
        compute=0.83, experts=0.298, attention=0.627, narrow=0.738, memory=0.822, expert_memory=0.683,
        cache_memory=0.643, network=0.366, layer_s=5.96e-05, expert_layer_s=2.14e-05, latent_layer_s=2.55e-05, step_s=0.0013,
        sequence_s=4.13e-05, collective_s=6.07e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.07, queueing=0.751, burst=0.155,
    ),
    "vllm|B200": Efficiency(
        compute=0.796, experts=0.331, attention=0.629, narrow=0.734, memory=0.81, expert_memory=0.97,
        cache_memory=0.588, network=0.31, layer_s=5.95e-05, expert_layer_s=2.06e-05, latent_layer_s=2.3e-05, step_s=0.00132,
        sequence_s=4.35e-05, collective_s=6.33e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0695, queueing=0.749, burst=0.155,
    ),
    "vllm|H100": Efficiency(
        compute=0.761, experts=0.318, attention=0.636, narrow=0.778, memory=0.848, expert_memory=0.811,
        cache_memory=0.674, network=0.375, layer_s=5.95e-05, expert_layer_s=2.08e-05, latent_layer_s=2.55e-05, step_s=0.00129,
        sequence_s=3.7e-05, collective_s=6.07e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0653, queueing=0.743, burst=0.144,
    ),
    "vllm|H200": Efficiency(
        compute=1, experts=0.23, attention=0.642, narrow=0.641, memory=0.798, expert_memory=0.494,
        cache_memory=0.637, network=0.439, layer_s=5.58e-05, expert_layer_s=2.03e-05, latent_layer_s=2.52e-05, step_s=0.00128,
        sequence_s=4.07e-05, collective_s=6.03e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0645, queueing=0.723, burst=0.143,
    ),
}

_OFFSETS = {
    "sglang|B200|DeepSeek-R1|16+4": (-0.185, 0.158),
    "sglang|B200|DeepSeek-R1|8": (0.133, 0.506),
    "sglang|B200|DeepSeek-V3|16+4": (-0.114, 0.197),
    "sglang|B200|DeepSeek-V3|8": (0.001, 0.327),
    "sglang|B200|GLM-5|16+4": (0.278, 0.139),
    "sglang|B200|GLM-5|8": (0.264, -0.084),
    "sglang|B200|Qwen3.5-397B-A17B|16": (-0.062, 0.154),
    "sglang|B200|Qwen3.5-397B-A17B|16+4": (-0.077, 0.227),
    "sglang|B200|Qwen3.5-397B-A17B|8": (-0.029, 0.406),
    "sglang|H100|Qwen3-32B|16": (-0.039, 1.001),
    "sglang|H200|DeepSeek-R1|8": (-0.099, -0.112),
    "sglang|H200|DeepSeek-V3|8": (-0.075, -0.195),
    "sglang|H200|GLM-5|8": (0.201, 0.087),
    "sglang|H200|Llama-3.1-8B|8": (0.035, 0.157),
    "sglang|H200|Qwen3-235B-A22B|8": (0.002, 0.273),
    "sglang|H200|Qwen3.5-397B-A17B|8": (0.230, 0.070),
    "trtllm|B200|DeepSeek-R1|16+4": (-0.234, 0.400),
    "trtllm|B200|DeepSeek-R1|8": (-0.158, 0.080),
    "trtllm|B200|DeepSeek-V3|16+4": (-0.081, 0.053),
    "trtllm|B200|DeepSeek-V3|8": (0.210, 0.196),
    "trtllm|B200|Llama-3.1-70B|4": (0.075, -0.631),
    "trtllm|B200|Llama-3.1-70B|8": (-0.029, -0.596),
    "trtllm|B200|gpt-oss-120b|16+4": (-0.142, -0.457),
    "trtllm|H100|DeepSeek-V3|8": (0.457, 2.079),
    "trtllm|H100|Llama-3.1-8B|16": (-0.015, -0.080),
    "trtllm|H100|Qwen3-235B-A22B|8": (-0.055, 0.302),
    "trtllm|H100|Qwen3-32B|8": (0.031, -0.245),
    "trtllm|H200|DeepSeek-R1|8": (-0.244, 0.928),
    "trtllm|H200|DeepSeek-V3|8": (0.046, 0.330),
    "trtllm|H200|Llama-3.1-70B|8": (-0.082, -0.460),
    "trtllm|H200|gpt-oss-120b|16+4": (0.077, -0.219),
    "vllm|B200|Kimi-K2.5|16+4w": (-0.118, 0.209),
    "vllm|B200|Llama-3.1-70B|4": (0.012, -0.215),
    "vllm|B200|Llama-3.1-70B|8": (-0.068, -0.056),
    "vllm|B200|MiniMax-M2.5|16+4": (-0.069, 0.032),
    "vllm|B200|MiniMax-M2.5|8": (0.138, 0.267),
    "vllm|B200|gpt-oss-120b|16+4": (-0.094, -0.293),
    "vllm|H100|Llama-3.1-70B|8": (0.005, -0.505),
    "vllm|H100|MiniMax-M2.5|8": (0.030, -0.172),
    "vllm|H100|Qwen3-32B|16": (0.014, 0.017),
    "vllm|H100|gpt-oss-120b|16+4": (-0.053, 0.016),
    "vllm|H200|Kimi-K2.5|16+4w": (-0.039, 0.079),
    "vllm|H200|Llama-3.1-70B|8": (-0.007, -0.200),
    "vllm|H200|Llama-3.1-8B|8": (-0.511, -0.908),
    "vllm|H200|MiniMax-M2.5|8": (0.026, 0.093),
    "vllm|H200|Qwen3-235B-A22B|8": (0.193, -0.009),
    "vllm|H200|gpt-oss-120b|16+4": (-0.087, -0.092),
}
# fmt: on

SHIPPED = Calibration(
    name="public measurements of NVIDIA and of splitwise-sim",
    efficiencies=_EFFICIENCIES,
    offsets=_OFFSETS,
    tpot_spread=Spread(point=0.13, group=0.25, hardware=0.2, engine=0.25),
    ttft_spread=Spread(point=0.45, group=0.40, hardware=0.3, engine=0.3),
)
"""Used wherever no other calibration is given."""
