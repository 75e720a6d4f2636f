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
        compute=0.771, experts=0.3, attention=0.515, narrow=0.69, memory=0.893, expert_memory=0.81,
        cache_memory=0.747, network=0.386, layer_s=5.22e-05, expert_layer_s=2.39e-05, latent_layer_s=3.34e-05, step_s=0.0014,
        sequence_s=5.13e-05, collective_s=7.99e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.108, queueing=0.661, burst=0.18,
    ),
    "sglang": Efficiency(
        compute=0.8, experts=0.277, attention=0.515, narrow=0.501, memory=0.893, expert_memory=0.822,
        cache_memory=0.605, network=0.552, layer_s=4.3e-05, expert_layer_s=2.76e-05, latent_layer_s=4.48e-05, step_s=0.00146,
        sequence_s=5.65e-05, collective_s=7.34e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.212, queueing=0.637, burst=0.251,
    ),
    "sglang|B200": Efficiency(
        compute=0.8, experts=0.267, attention=0.49, narrow=0.536, memory=0.893, expert_memory=0.803,
        cache_memory=0.627, network=0.453, layer_s=3.69e-05, expert_layer_s=2.54e-05, latent_layer_s=5.07e-05, step_s=0.00146,
        sequence_s=5.38e-05, collective_s=6.93e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.276, queueing=0.634, burst=0.287,
    ),
    "sglang|H100": Efficiency(
        compute=0.8, experts=0.277, attention=0.543, narrow=0.587, memory=0.893, expert_memory=0.822,
        cache_memory=0.673, network=0.685, layer_s=3.93e-05, expert_layer_s=2.76e-05, latent_layer_s=4.48e-05, step_s=0.00145,
        sequence_s=5.56e-05, collective_s=7.13e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.238, queueing=0.649, burst=0.305,
    ),
    "sglang|H200": Efficiency(
        compute=0.8, experts=0.293, attention=0.518, narrow=0.496, memory=0.863, expert_memory=0.902,
        cache_memory=0.514, network=0.589, layer_s=4.88e-05, expert_layer_s=2.97e-05, latent_layer_s=4.31e-05, step_s=0.00148,
        sequence_s=6.07e-05, collective_s=7.57e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.212, queueing=0.631, burst=0.232,
    ),
    "trtllm": Efficiency(
        compute=0.703, experts=0.334, attention=0.51, narrow=0.884, memory=0.93, expert_memory=0.784,
        cache_memory=0.775, network=0.313, layer_s=4.5e-05, expert_layer_s=1.77e-05, latent_layer_s=2.76e-05, step_s=0.00138,
        sequence_s=4.53e-05, collective_s=8.78e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.122, queueing=0.631, burst=0.179,
    ),
    "trtllm|B200": Efficiency(
        compute=0.738, experts=0.344, attention=0.568, narrow=0.96, memory=0.93, expert_memory=0.824,
        cache_memory=0.729, network=0.296, layer_s=4.13e-05, expert_layer_s=1.43e-05, latent_layer_s=2.61e-05, step_s=0.00132,
        sequence_s=4.17e-05, collective_s=8.76e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.118, queueing=0.648, burst=0.195,
    ),
    "trtllm|H100": Efficiency(
        compute=0.684, experts=0.324, attention=0.519, narrow=0.687, memory=0.93, expert_memory=0.922,
        cache_memory=0.733, network=0.292, layer_s=4.26e-05, expert_layer_s=1.72e-05, latent_layer_s=3.06e-05, step_s=0.00137,
        sequence_s=4.37e-05, collective_s=9.61e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.132, queueing=0.627, burst=0.177,
    ),
    "trtllm|H200": Efficiency(
        compute=0.799, experts=0.327, attention=0.465, narrow=1, memory=0.93, expert_memory=0.752,
        cache_memory=0.875, network=0.347, layer_s=5.16e-05, expert_layer_s=2.26e-05, latent_layer_s=2.51e-05, step_s=0.00146,
        sequence_s=4.86e-05, collective_s=8.96e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.128, queueing=0.622, burst=0.179,
    ),
    "vllm": Efficiency(
        compute=0.8, experts=0.245, attention=0.575, narrow=0.751, memory=0.814, expert_memory=0.736,
        cache_memory=0.654, network=0.376, layer_s=5.64e-05, expert_layer_s=2.1e-05, latent_layer_s=2.82e-05, step_s=0.00133,
        sequence_s=4.23e-05, collective_s=8.03e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.0727, queueing=0.614, burst=0.14,
    ),
    "vllm|B200": Efficiency(
        compute=0.8, experts=0.281, attention=0.578, narrow=0.751, memory=0.79, expert_memory=0.93,
        cache_memory=0.599, network=0.326, layer_s=5.57e-05, expert_layer_s=2.06e-05, latent_layer_s=2.49e-05, step_s=0.00135,
        sequence_s=4.43e-05, collective_s=8.24e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.0724, queueing=0.613, burst=0.142,
    ),
    "vllm|H100": Efficiency(
        compute=0.8, experts=0.264, attention=0.582, narrow=0.781, memory=0.836, expert_memory=0.855,
        cache_memory=0.671, network=0.371, layer_s=5.48e-05, expert_layer_s=2.01e-05, latent_layer_s=2.82e-05, step_s=0.00132,
        sequence_s=3.79e-05, collective_s=7.97e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.0677, queueing=0.611, burst=0.133,
    ),
    "vllm|H200": Efficiency(
        compute=0.8, experts=0.195, attention=0.596, narrow=0.703, memory=0.8, expert_memory=0.506,
        cache_memory=0.676, network=0.459, layer_s=5.24e-05, expert_layer_s=1.99e-05, latent_layer_s=2.74e-05, step_s=0.00131,
        sequence_s=4.16e-05, collective_s=7.95e-06, awake=0.224, memory_power=0.833, compute_power=1.24, peak_power=1.03,
        request_s=0.0658, queueing=0.589, burst=0.127,
    ),
}

_OFFSETS = {
    "sglang|B200|DeepSeek-R1|16+4": (-0.202, 0.158),
    "sglang|B200|DeepSeek-R1|8": (0.046, 0.522),
    "sglang|B200|DeepSeek-V3|16+4": (-0.076, 0.197),
    "sglang|B200|DeepSeek-V3|8": (-0.066, 0.349),
    "sglang|B200|GLM-5|16+4": (0.145, 0.160),
    "sglang|B200|GLM-5|8": (0.106, -0.094),
    "sglang|B200|Qwen3.5-397B-A17B|16": (0.001, 0.125),
    "sglang|B200|Qwen3.5-397B-A17B|16+4": (-0.005, 0.211),
    "sglang|B200|Qwen3.5-397B-A17B|8": (0.027, 0.396),
    "sglang|H100|Qwen3-32B|16": (-0.078, 0.952),
    "sglang|H200|DeepSeek-R1|8": (-0.071, -0.112),
    "sglang|H200|DeepSeek-V3|8": (-0.062, -0.200),
    "sglang|H200|GLM-5|8": (0.046, 0.071),
    "sglang|H200|Llama-3.1-8B|8": (0.049, 0.281),
    "sglang|H200|Qwen3-235B-A22B|8": (0.070, 0.168),
    "sglang|H200|Qwen3.5-397B-A17B|8": (0.175, 0.053),
    "trtllm|B200|DeepSeek-R1|16+4": (-0.234, 0.442),
    "trtllm|B200|DeepSeek-R1|8": (-0.143, 0.018),
    "trtllm|B200|DeepSeek-V3|16+4": (-0.098, 0.019),
    "trtllm|B200|DeepSeek-V3|8": (0.154, 0.161),
    "trtllm|B200|Llama-3.1-70B|4": (0.075, -0.655),
    "trtllm|B200|Llama-3.1-70B|8": (-0.042, -0.594),
    "trtllm|B200|gpt-oss-120b|16+4": (-0.104, -0.516),
    "trtllm|H100|DeepSeek-V3|8": (0.124, 2.451),
    "trtllm|H100|Llama-3.1-8B|16": (-0.009, -0.085),
    "trtllm|H100|Qwen3-235B-A22B|8": (-0.059, 0.244),
    "trtllm|H100|Qwen3-32B|8": (0.021, -0.253),
    "trtllm|H200|DeepSeek-R1|8": (-0.225, 0.912),
    "trtllm|H200|DeepSeek-V3|8": (-0.002, 0.313),
    "trtllm|H200|Llama-3.1-70B|8": (-0.101, -0.466),
    "trtllm|H200|gpt-oss-120b|16+4": (0.126, -0.319),
    "vllm|B200|Kimi-K2.5|16+4w": (-0.190, 0.185),
    "vllm|B200|Llama-3.1-70B|4": (0.022, -0.163),
    "vllm|B200|Llama-3.1-70B|8": (-0.062, -0.027),
    "vllm|B200|MiniMax-M2.5|16+4": (-0.079, 0.041),
    "vllm|B200|MiniMax-M2.5|8": (0.126, 0.258),
    "vllm|B200|gpt-oss-120b|16+4": (-0.118, -0.323),
    "vllm|H100|Llama-3.1-70B|8": (0.007, -0.428),
    "vllm|H100|MiniMax-M2.5|8": (-0.044, -0.154),
    "vllm|H100|Qwen3-32B|16": (0.019, 0.080),
    "vllm|H100|gpt-oss-120b|16+4": (-0.032, -0.032),
    "vllm|H200|Kimi-K2.5|16+4w": (-0.047, 0.073),
    "vllm|H200|Llama-3.1-70B|8": (-0.018, -0.238),
    "vllm|H200|Llama-3.1-8B|8": (-0.528, -0.875),
    "vllm|H200|MiniMax-M2.5|8": (0.041, 0.110),
    "vllm|H200|Qwen3-235B-A22B|8": (0.195, -0.028),
    "vllm|H200|gpt-oss-120b|16+4": (-0.088, -0.178),
}
# fmt: on

SHIPPED = Calibration(
    name="public measurements of NVIDIA and of splitwise-sim",
    efficiencies=_EFFICIENCIES,
    offsets=_OFFSETS,
    tpot_spread=Spread(point=0.14, group=0.25, hardware=0.2, engine=0.25),
    ttft_spread=Spread(point=0.46, group=0.40, hardware=0.3, engine=0.3),
)
"""Used wherever no other calibration is given."""
