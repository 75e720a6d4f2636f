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
        compute=0.969, experts=0.345, attention=0.425, narrow=0.654, memory=0.959, expert_memory=0.732,
        cache_memory=0.645, network=0.348, layer_s=5.48e-05, expert_layer_s=2.39e-05, latent_layer_s=2.83e-05, step_s=0.0017,
        sequence_s=1.84e-05, collective_s=7.77e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0947, queueing=0.842, burst=0.217,
    ),
    "sglang": Efficiency(
        compute=1, experts=0.357, attention=0.275, narrow=0.409, memory=1, expert_memory=0.767,
        cache_memory=0.493, network=0.379, layer_s=5.36e-05, expert_layer_s=3.33e-05, latent_layer_s=2.98e-05, step_s=0.00179,
        sequence_s=3.3e-05, collective_s=7.43e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.185, queueing=0.916, burst=0.364,
    ),
    "sglang|B200": Efficiency(
        compute=1, experts=0.349, attention=0.263, narrow=0.43, memory=1, expert_memory=0.77,
        cache_memory=0.528, network=0.271, layer_s=5.03e-05, expert_layer_s=3.18e-05, latent_layer_s=3.12e-05, step_s=0.00179,
        sequence_s=3.31e-05, collective_s=7.29e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.209, queueing=0.936, burst=0.391,
    ),
    "sglang|H100": Efficiency(
        compute=1, experts=0.357, attention=0.296, narrow=0.431, memory=1, expert_memory=0.767,
        cache_memory=0.553, network=0.512, layer_s=4.52e-05, expert_layer_s=3.33e-05, latent_layer_s=2.98e-05, step_s=0.00179,
        sequence_s=3.32e-05, collective_s=7.02e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.204, queueing=0.965, burst=0.481,
    ),
    "sglang|H200": Efficiency(
        compute=1, experts=0.37, attention=0.281, narrow=0.429, memory=1, expert_memory=0.858,
        cache_memory=0.423, network=0.395, layer_s=6.32e-05, expert_layer_s=3.64e-05, latent_layer_s=2.9e-05, step_s=0.00181,
        sequence_s=3.95e-05, collective_s=7.71e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.18, queueing=0.904, burst=0.335,
    ),
    "trtllm": Efficiency(
        compute=0.757, experts=0.362, attention=0.481, narrow=0.855, memory=0.986, expert_memory=0.768,
        cache_memory=0.714, network=0.308, layer_s=4.83e-05, expert_layer_s=2.16e-05, latent_layer_s=3.1e-05, step_s=0.00167,
        sequence_s=1.72e-05, collective_s=7.24e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.106, queueing=0.762, burst=0.196,
    ),
    "trtllm|B200": Efficiency(
        compute=0.837, experts=0.386, attention=0.479, narrow=0.99, memory=0.92, expert_memory=0.852,
        cache_memory=0.649, network=0.27, layer_s=4.18e-05, expert_layer_s=1.56e-05, latent_layer_s=3.05e-05, step_s=0.00152,
        sequence_s=1.71e-05, collective_s=6.89e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.101, queueing=0.776, burst=0.196,
    ),
    "trtllm|H100": Efficiency(
        compute=0.698, experts=0.343, attention=0.487, narrow=0.672, memory=0.968, expert_memory=0.88,
        cache_memory=0.738, network=0.321, layer_s=5.49e-05, expert_layer_s=2.5e-05, latent_layer_s=5.56e-05, step_s=0.00164,
        sequence_s=1.73e-05, collective_s=7.38e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.118, queueing=0.747, burst=0.195,
    ),
    "trtllm|H200": Efficiency(
        compute=0.843, experts=0.347, attention=0.484, narrow=0.921, memory=0.986, expert_memory=0.745,
        cache_memory=0.859, network=0.348, layer_s=6.18e-05, expert_layer_s=3.48e-05, latent_layer_s=3.63e-05, step_s=0.0017,
        sequence_s=1.73e-05, collective_s=7.67e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.11, queueing=0.742, burst=0.192,
    ),
    "vllm": Efficiency(
        compute=1, experts=0.302, attention=0.486, narrow=0.802, memory=0.825, expert_memory=0.66,
        cache_memory=0.566, network=0.386, layer_s=5.44e-05, expert_layer_s=1.84e-05, latent_layer_s=2.66e-05, step_s=0.0016,
        sequence_s=1.84e-05, collective_s=8.74e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0636, queueing=0.831, burst=0.193,
    ),
    "vllm|B200": Efficiency(
        compute=1, experts=0.324, attention=0.482, narrow=0.753, memory=0.8, expert_memory=0.925,
        cache_memory=0.525, network=0.321, layer_s=5.1e-05, expert_layer_s=1.62e-05, latent_layer_s=2.32e-05, step_s=0.00161,
        sequence_s=1.88e-05, collective_s=9.29e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0613, queueing=0.826, burst=0.192,
    ),
    "vllm|H100": Efficiency(
        compute=1, experts=0.311, attention=0.491, narrow=0.851, memory=0.867, expert_memory=0.797,
        cache_memory=0.536, network=0.372, layer_s=5.7e-05, expert_layer_s=1.8e-05, latent_layer_s=2.66e-05, step_s=0.00159,
        sequence_s=1.82e-05, collective_s=8.86e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0584, queueing=0.822, burst=0.178,
    ),
    "vllm|H200": Efficiency(
        compute=1, experts=0.25, attention=0.53, narrow=0.898, memory=0.781, expert_memory=0.472,
        cache_memory=0.609, network=0.582, layer_s=5.05e-05, expert_layer_s=1.83e-05, latent_layer_s=2.55e-05, step_s=0.00157,
        sequence_s=1.82e-05, collective_s=8.46e-06, awake=0.238, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0611, queueing=0.851, burst=0.204,
    ),
}

_OFFSETS = {
    "sglang|B200|DeepSeek-R1|bf16+nvfp4": (-0.171, 0.006),
    "sglang|B200|DeepSeek-R1|fp8+fp8_block": (0.143, 0.257),
    "sglang|B200|DeepSeek-V3|bf16+nvfp4": (-0.114, 0.055),
    "sglang|B200|DeepSeek-V3|fp8+fp8_block": (0.021, 0.175),
    "sglang|B200|GLM-5|bf16+nvfp4": (0.276, -0.104),
    "sglang|B200|GLM-5|fp8+fp8_block": (0.262, -0.248),
    "sglang|B200|Qwen3.5-397B-A17B|bf16": (-0.050, 0.054),
    "sglang|B200|Qwen3.5-397B-A17B|bf16+nvfp4": (-0.061, 0.260),
    "sglang|B200|Qwen3.5-397B-A17B|fp8+fp8_block": (0.014, 0.455),
    "sglang|H100|Qwen3-32B|bf16": (-0.057, 0.674),
    "sglang|H200|DeepSeek-R1|fp8+fp8_block": (-0.131, -0.194),
    "sglang|H200|DeepSeek-V3|fp8+fp8_block": (-0.135, -0.285),
    "sglang|H200|GLM-5|fp8+fp8_block": (0.187, 0.080),
    "sglang|H200|Llama-3.1-8B|fp8_block": (0.014, -0.244),
    "sglang|H200|Qwen3-235B-A22B|fp8_block": (-0.060, 0.169),
    "sglang|H200|Qwen3.5-397B-A17B|fp8+fp8_block": (0.176, -0.077),
    "trtllm|B200|DeepSeek-R1|bf16+nvfp4": (-0.234, 0.378),
    "trtllm|B200|DeepSeek-R1|fp8": (-0.149, 0.068),
    "trtllm|B200|DeepSeek-V3|bf16+nvfp4": (-0.073, 0.063),
    "trtllm|B200|DeepSeek-V3|fp8": (0.220, 0.164),
    "trtllm|B200|Llama-3.1-70B|fp8": (-0.039, -0.549),
    "trtllm|B200|Llama-3.1-70B|nvfp4": (0.084, -0.602),
    "trtllm|B200|gpt-oss-120b|bf16+mxfp4": (-0.079, -0.448),
    "trtllm|H100|DeepSeek-V3|fp8": (0.330, 2.054),
    "trtllm|H100|Llama-3.1-8B|bf16": (-0.010, -0.038),
    "trtllm|H100|Qwen3-235B-A22B|fp8_block": (-0.050, 0.293),
    "trtllm|H100|Qwen3-32B|fp8": (0.013, -0.242),
    "trtllm|H200|DeepSeek-R1|fp8": (-0.226, 0.849),
    "trtllm|H200|DeepSeek-V3|fp8": (0.035, 0.344),
    "trtllm|H200|Llama-3.1-70B|fp8": (-0.115, -0.485),
    "trtllm|H200|gpt-oss-120b|bf16+mxfp4": (0.071, -0.238),
    "vllm|B200|Kimi-K2.5|bf16+int4_g32": (-0.098, 0.199),
    "vllm|B200|Llama-3.1-70B|fp8": (-0.046, 0.062),
    "vllm|B200|Llama-3.1-70B|nvfp4": (0.032, -0.110),
    "vllm|B200|MiniMax-M2.5|bf16+nvfp4": (-0.041, -0.021),
    "vllm|B200|MiniMax-M2.5|fp8": (0.139, 0.210),
    "vllm|B200|gpt-oss-120b|bf16+mxfp4": (-0.089, -0.228),
    "vllm|H100|Llama-3.1-70B|fp8": (-0.015, -0.429),
    "vllm|H100|MiniMax-M2.5|fp8": (0.014, -0.162),
    "vllm|H100|Qwen3-32B|bf16": (0.003, 0.118),
    "vllm|H100|gpt-oss-120b|bf16+mxfp4": (-0.061, -0.012),
    "vllm|H200|Kimi-K2.5|bf16+int4_g32": (-0.027, 0.073),
    "vllm|H200|Llama-3.1-70B|fp8": (0.044, -0.118),
    "vllm|H200|Llama-3.1-8B|fp8": (-0.344, -0.978),
    "vllm|H200|MiniMax-M2.5|fp8": (0.022, 0.130),
    "vllm|H200|Qwen3-235B-A22B|fp8": (0.192, 0.095),
    "vllm|H200|gpt-oss-120b|bf16+mxfp4": (-0.079, -0.127),
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
