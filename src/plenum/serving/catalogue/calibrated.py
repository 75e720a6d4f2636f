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
        sequence_s=4.99e-05, collective_s=5.99e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.1, queueing=0.807, burst=0.203,
    ),
    "sglang": Efficiency(
        compute=0.8, experts=0.374, attention=0.563, narrow=0.484, memory=0.93, expert_memory=0.788,
        cache_memory=0.589, network=0.545, layer_s=5.22e-05, expert_layer_s=3.57e-05, latent_layer_s=3.76e-05, step_s=0.00141,
        sequence_s=5.57e-05, collective_s=5.87e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.204, queueing=0.76, burst=0.292,
    ),
    "sglang|B200": Efficiency(
        compute=0.8, experts=0.369, attention=0.541, narrow=0.502, memory=0.93, expert_memory=0.792,
        cache_memory=0.569, network=0.453, layer_s=5.26e-05, expert_layer_s=3.61e-05, latent_layer_s=3.75e-05, step_s=0.00141,
        sequence_s=5.35e-05, collective_s=5.88e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.265, queueing=0.754, burst=0.335,
    ),
    "sglang|H100": Efficiency(
        compute=0.8, experts=0.374, attention=0.589, narrow=0.553, memory=0.93, expert_memory=0.788,
        cache_memory=0.655, network=0.678, layer_s=4.57e-05, expert_layer_s=3.57e-05, latent_layer_s=3.76e-05, step_s=0.0014,
        sequence_s=5.48e-05, collective_s=5.68e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.228, queueing=0.782, burst=0.367,
    ),
    "sglang|H200": Efficiency(
        compute=0.8, experts=0.396, attention=0.558, narrow=0.491, memory=0.93, expert_memory=0.901,
        cache_memory=0.492, network=0.569, layer_s=5.72e-05, expert_layer_s=3.75e-05, latent_layer_s=3.87e-05, step_s=0.00143,
        sequence_s=5.94e-05, collective_s=5.95e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.21, queueing=0.748, burst=0.265,
    ),
    "trtllm": Efficiency(
        compute=0.701, experts=0.402, attention=0.599, narrow=0.848, memory=0.924, expert_memory=0.715,
        cache_memory=0.837, network=0.319, layer_s=4.94e-05, expert_layer_s=2.07e-05, latent_layer_s=2.87e-05, step_s=0.00137,
        sequence_s=4.28e-05, collective_s=6.11e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.114, queueing=0.821, burst=0.196,
    ),
    "trtllm|B200": Efficiency(
        compute=0.737, experts=0.415, attention=0.648, narrow=0.906, memory=0.924, expert_memory=0.798,
        cache_memory=0.759, network=0.3, layer_s=4.65e-05, expert_layer_s=1.6e-05, latent_layer_s=2.83e-05, step_s=0.00131,
        sequence_s=4e-05, collective_s=6.3e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.112, queueing=0.851, burst=0.206,
    ),
    "trtllm|H100": Efficiency(
        compute=0.66, experts=0.409, attention=0.611, narrow=0.683, memory=0.923, expert_memory=0.804,
        cache_memory=0.762, network=0.327, layer_s=5.26e-05, expert_layer_s=2.14e-05, latent_layer_s=3.57e-05, step_s=0.00136,
        sequence_s=4.2e-05, collective_s=6.18e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.123, queueing=0.947, burst=0.188,
    ),
    "trtllm|H200": Efficiency(
        compute=0.792, experts=0.4, attention=0.586, narrow=0.973, memory=0.924, expert_memory=0.664,
        cache_memory=0.93, network=0.358, layer_s=5.87e-05, expert_layer_s=2.76e-05, latent_layer_s=2.81e-05, step_s=0.00142,
        sequence_s=4.46e-05, collective_s=6.34e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.119, queueing=0.786, burst=0.192,
    ),
    "vllm": Efficiency(
        compute=0.8, experts=0.302, attention=0.623, narrow=0.737, memory=0.823, expert_memory=0.685,
        cache_memory=0.645, network=0.364, layer_s=5.97e-05, expert_layer_s=2.14e-05, latent_layer_s=2.55e-05, step_s=0.0013,
        sequence_s=4.12e-05, collective_s=6.07e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.0703, queueing=0.755, burst=0.155,
    ),
    "vllm|B200": Efficiency(
        compute=0.8, experts=0.334, attention=0.624, narrow=0.735, memory=0.812, expert_memory=0.93,
        cache_memory=0.588, network=0.312, layer_s=6e-05, expert_layer_s=2.1e-05, latent_layer_s=2.32e-05, step_s=0.00131,
        sequence_s=4.32e-05, collective_s=6.28e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.0698, queueing=0.753, burst=0.155,
    ),
    "vllm|H100": Efficiency(
        compute=0.8, experts=0.322, attention=0.63, narrow=0.771, memory=0.845, expert_memory=0.813,
        cache_memory=0.666, network=0.365, layer_s=5.95e-05, expert_layer_s=2.09e-05, latent_layer_s=2.55e-05, step_s=0.00129,
        sequence_s=3.7e-05, collective_s=6.07e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.0657, queueing=0.747, burst=0.145,
    ),
    "vllm|H200": Efficiency(
        compute=0.8, experts=0.233, attention=0.64, narrow=0.716, memory=0.803, expert_memory=0.491,
        cache_memory=0.663, network=0.439, layer_s=5.56e-05, expert_layer_s=2.04e-05, latent_layer_s=2.52e-05, step_s=0.00128,
        sequence_s=4.06e-05, collective_s=6.03e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.0645, queueing=0.73, burst=0.143,
    ),
}

_OFFSETS = {
    "sglang|B200|DeepSeek-R1|16+4": (-0.187, 0.153),
    "sglang|B200|DeepSeek-R1|8": (0.134, 0.494),
    "sglang|B200|DeepSeek-V3|16+4": (-0.115, 0.192),
    "sglang|B200|DeepSeek-V3|8": (0.004, 0.322),
    "sglang|B200|GLM-5|16+4": (0.282, 0.140),
    "sglang|B200|GLM-5|8": (0.267, -0.098),
    "sglang|B200|Qwen3.5-397B-A17B|16": (-0.062, 0.137),
    "sglang|B200|Qwen3.5-397B-A17B|16+4": (-0.078, 0.216),
    "sglang|B200|Qwen3.5-397B-A17B|8": (-0.027, 0.399),
    "sglang|H100|Qwen3-32B|16": (-0.075, 0.863),
    "sglang|H200|DeepSeek-R1|8": (-0.101, -0.119),
    "sglang|H200|DeepSeek-V3|8": (-0.076, -0.201),
    "sglang|H200|GLM-5|8": (0.199, 0.082),
    "sglang|H200|Llama-3.1-8B|8": (0.039, 0.129),
    "sglang|H200|Qwen3-235B-A22B|8": (0.001, 0.272),
    "sglang|H200|Qwen3.5-397B-A17B|8": (0.233, 0.068),
    "trtllm|B200|DeepSeek-R1|16+4": (-0.252, 0.401),
    "trtllm|B200|DeepSeek-R1|8": (-0.171, 0.050),
    "trtllm|B200|DeepSeek-V3|16+4": (-0.083, 0.056),
    "trtllm|B200|DeepSeek-V3|8": (0.200, 0.162),
    "trtllm|B200|Llama-3.1-70B|4": (0.071, -0.658),
    "trtllm|B200|Llama-3.1-70B|8": (-0.043, -0.607),
    "trtllm|B200|gpt-oss-120b|16+4": (-0.134, -0.490),
    "trtllm|H100|DeepSeek-V3|8": (0.466, 2.047),
    "trtllm|H100|Llama-3.1-8B|16": (-0.019, -0.105),
    "trtllm|H100|Qwen3-235B-A22B|8": (-0.034, 0.261),
    "trtllm|H100|Qwen3-32B|8": (0.022, -0.281),
    "trtllm|H200|DeepSeek-R1|8": (-0.245, 0.919),
    "trtllm|H200|DeepSeek-V3|8": (0.045, 0.308),
    "trtllm|H200|Llama-3.1-70B|8": (-0.099, -0.479),
    "trtllm|H200|gpt-oss-120b|16+4": (0.102, -0.245),
    "vllm|B200|Kimi-K2.5|16+4w": (-0.134, 0.202),
    "vllm|B200|Llama-3.1-70B|4": (0.011, -0.213),
    "vllm|B200|Llama-3.1-70B|8": (-0.068, -0.056),
    "vllm|B200|MiniMax-M2.5|16+4": (-0.081, 0.036),
    "vllm|B200|MiniMax-M2.5|8": (0.124, 0.271),
    "vllm|B200|gpt-oss-120b|16+4": (-0.114, -0.293),
    "vllm|H100|Llama-3.1-70B|8": (0.003, -0.503),
    "vllm|H100|MiniMax-M2.5|8": (0.031, -0.177),
    "vllm|H100|Qwen3-32B|16": (0.016, 0.038),
    "vllm|H100|gpt-oss-120b|16+4": (-0.053, 0.012),
    "vllm|H200|Kimi-K2.5|16+4w": (-0.039, 0.072),
    "vllm|H200|Llama-3.1-70B|8": (-0.011, -0.278),
    "vllm|H200|Llama-3.1-8B|8": (-0.529, -0.975),
    "vllm|H200|MiniMax-M2.5|8": (0.024, 0.092),
    "vllm|H200|Qwen3-235B-A22B|8": (0.192, 0.062),
    "vllm|H200|gpt-oss-120b|16+4": (-0.088, -0.094),
}
# fmt: on

SHIPPED = Calibration(
    name="public measurements of NVIDIA and of splitwise-sim",
    efficiencies=_EFFICIENCIES,
    offsets=_OFFSETS,
    tpot_spread=Spread(point=0.13, group=0.25, hardware=0.2, engine=0.25),
    ttft_spread=Spread(point=0.44, group=0.40, hardware=0.3, engine=0.3),
)
"""Used wherever no other calibration is given."""
