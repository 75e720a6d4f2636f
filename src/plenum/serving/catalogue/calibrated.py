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
        compute=0.79, experts=0.369, attention=0.57, narrow=0.688, memory=0.954, expert_memory=0.741,
        cache_memory=0.677, network=0.394, layer_s=5.43e-05, expert_layer_s=2.55e-05, latent_layer_s=3.05e-05, step_s=0.00137,
        sequence_s=5.06e-05, collective_s=7.99e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.102, queueing=0.78, burst=0.202,
    ),
    "sglang": Efficiency(
        compute=0.997, experts=0.403, attention=0.549, narrow=0.429, memory=1, expert_memory=0.795,
        cache_memory=0.555, network=0.524, layer_s=5.24e-05, expert_layer_s=3.26e-05, latent_layer_s=3.7e-05, step_s=0.00141,
        sequence_s=5.57e-05, collective_s=7.85e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.202, queueing=0.737, burst=0.276,
    ),
    "sglang|B200": Efficiency(
        compute=0.969, experts=0.404, attention=0.527, narrow=0.462, memory=1, expert_memory=0.798,
        cache_memory=0.547, network=0.434, layer_s=5.28e-05, expert_layer_s=3.3e-05, latent_layer_s=3.68e-05, step_s=0.0014,
        sequence_s=5.32e-05, collective_s=7.85e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.265, queueing=0.731, burst=0.32,
    ),
    "sglang|H100": Efficiency(
        compute=0.997, experts=0.403, attention=0.568, narrow=0.461, memory=1, expert_memory=0.795,
        cache_memory=0.613, network=0.626, layer_s=4.73e-05, expert_layer_s=3.26e-05, latent_layer_s=3.7e-05, step_s=0.0014,
        sequence_s=5.52e-05, collective_s=7.62e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.223, queueing=0.752, burst=0.324,
    ),
    "sglang|H200": Efficiency(
        compute=0.939, experts=0.433, attention=0.545, narrow=0.435, memory=1, expert_memory=0.909,
        cache_memory=0.467, network=0.55, layer_s=5.73e-05, expert_layer_s=3.41e-05, latent_layer_s=3.81e-05, step_s=0.00142,
        sequence_s=5.88e-05, collective_s=7.97e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.209, queueing=0.727, burst=0.253,
    ),
    "trtllm": Efficiency(
        compute=0.691, experts=0.4, attention=0.586, narrow=0.846, memory=1, expert_memory=0.718,
        cache_memory=0.748, network=0.35, layer_s=5.02e-05, expert_layer_s=2.01e-05, latent_layer_s=2.89e-05, step_s=0.00139,
        sequence_s=4.7e-05, collective_s=7.29e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.115, queueing=0.896, burst=0.192,
    ),
    "trtllm|B200": Efficiency(
        compute=0.753, experts=0.418, attention=0.644, narrow=0.949, memory=1, expert_memory=0.824,
        cache_memory=0.627, network=0.326, layer_s=4.65e-05, expert_layer_s=1.55e-05, latent_layer_s=2.8e-05, step_s=0.00132,
        sequence_s=4.43e-05, collective_s=7.09e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.112, queueing=1.04, burst=0.207,
    ),
    "trtllm|H100": Efficiency(
        compute=0.665, experts=0.403, attention=0.597, narrow=0.676, memory=1, expert_memory=0.81,
        cache_memory=0.697, network=0.339, layer_s=5.28e-05, expert_layer_s=2.06e-05, latent_layer_s=3.5e-05, step_s=0.00137,
        sequence_s=4.54e-05, collective_s=7.35e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.123, queueing=0.978, burst=0.184,
    ),
    "trtllm|H200": Efficiency(
        compute=0.789, experts=0.398, attention=0.573, narrow=0.976, memory=1, expert_memory=0.673,
        cache_memory=0.843, network=0.389, layer_s=6.03e-05, expert_layer_s=2.75e-05, latent_layer_s=2.86e-05, step_s=0.00145,
        sequence_s=4.95e-05, collective_s=7.58e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.12, queueing=0.858, burst=0.187,
    ),
    "vllm": Efficiency(
        compute=0.826, experts=0.286, attention=0.608, narrow=0.746, memory=0.847, expert_memory=0.683,
        cache_memory=0.64, network=0.372, layer_s=5.44e-05, expert_layer_s=2.14e-05, latent_layer_s=2.57e-05, step_s=0.0013,
        sequence_s=4.14e-05, collective_s=8.59e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.069, queueing=0.719, burst=0.152,
    ),
    "vllm|B200": Efficiency(
        compute=0.813, experts=0.315, attention=0.607, narrow=0.734, memory=0.89, expert_memory=0.958,
        cache_memory=0.598, network=0.336, layer_s=5.44e-05, expert_layer_s=2.08e-05, latent_layer_s=2.31e-05, step_s=0.00131,
        sequence_s=4.35e-05, collective_s=9.03e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0682, queueing=0.714, burst=0.151,
    ),
    "vllm|H100": Efficiency(
        compute=0.755, experts=0.307, attention=0.618, narrow=0.783, memory=0.854, expert_memory=0.814,
        cache_memory=0.67, network=0.38, layer_s=5.47e-05, expert_layer_s=2.08e-05, latent_layer_s=2.57e-05, step_s=0.00128,
        sequence_s=3.71e-05, collective_s=8.61e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0646, queueing=0.713, burst=0.142,
    ),
    "vllm|H200": Efficiency(
        compute=1, experts=0.221, attention=0.624, narrow=0.641, memory=0.797, expert_memory=0.496,
        cache_memory=0.635, network=0.447, layer_s=5.1e-05, expert_layer_s=2.03e-05, latent_layer_s=2.53e-05, step_s=0.00127,
        sequence_s=4.08e-05, collective_s=8.48e-06, awake=0.239, memory_power=0.855, compute_power=1.2, peak_power=1.03,
        request_s=0.0637, queueing=0.691, burst=0.14,
    ),
}

_OFFSETS = {
    "sglang|B200|DeepSeek-R1|bf16+nvfp4": (-0.185, 0.161),
    "sglang|B200|DeepSeek-R1|fp8+fp8_block": (0.132, 0.513),
    "sglang|B200|DeepSeek-V3|bf16+nvfp4": (-0.113, 0.194),
    "sglang|B200|DeepSeek-V3|fp8+fp8_block": (0.000, 0.330),
    "sglang|B200|GLM-5|bf16+nvfp4": (0.278, 0.150),
    "sglang|B200|GLM-5|fp8+fp8_block": (0.265, -0.079),
    "sglang|B200|Qwen3.5-397B-A17B|bf16": (-0.062, 0.159),
    "sglang|B200|Qwen3.5-397B-A17B|bf16+nvfp4": (-0.077, 0.227),
    "sglang|B200|Qwen3.5-397B-A17B|fp8+fp8_block": (-0.029, 0.408),
    "sglang|H100|Qwen3-32B|bf16": (-0.034, 1.025),
    "sglang|H200|DeepSeek-R1|fp8+fp8_block": (-0.100, -0.108),
    "sglang|H200|DeepSeek-V3|fp8+fp8_block": (-0.075, -0.192),
    "sglang|H200|GLM-5|fp8+fp8_block": (0.201, 0.091),
    "sglang|H200|Llama-3.1-8B|fp8_block": (0.029, 0.168),
    "sglang|H200|Qwen3-235B-A22B|fp8_block": (0.003, 0.266),
    "sglang|H200|Qwen3.5-397B-A17B|fp8+fp8_block": (0.230, 0.075),
    "trtllm|B200|DeepSeek-R1|bf16+nvfp4": (-0.229, 0.415),
    "trtllm|B200|DeepSeek-R1|fp8": (-0.163, 0.086),
    "trtllm|B200|DeepSeek-V3|bf16+nvfp4": (-0.070, 0.012),
    "trtllm|B200|DeepSeek-V3|fp8": (0.197, 0.196),
    "trtllm|B200|Llama-3.1-70B|fp8": (-0.048, -0.573),
    "trtllm|B200|Llama-3.1-70B|nvfp4": (0.052, -0.616),
    "trtllm|B200|gpt-oss-120b|bf16+mxfp4": (-0.133, -0.461),
    "trtllm|H100|DeepSeek-V3|fp8": (0.467, 2.056),
    "trtllm|H100|Llama-3.1-8B|bf16": (-0.015, -0.092),
    "trtllm|H100|Qwen3-235B-A22B|fp8_block": (-0.038, 0.267),
    "trtllm|H100|Qwen3-32B|fp8": (0.027, -0.280),
    "trtllm|H200|DeepSeek-R1|fp8": (-0.244, 0.940),
    "trtllm|H200|DeepSeek-V3|fp8": (0.044, 0.324),
    "trtllm|H200|Llama-3.1-70B|fp8": (-0.090, -0.451),
    "trtllm|H200|gpt-oss-120b|bf16+mxfp4": (0.092, -0.232),
    "vllm|B200|Kimi-K2.5|bf16+int4_g32": (-0.117, 0.231),
    "vllm|B200|Llama-3.1-70B|fp8": (-0.017, -0.031),
    "vllm|B200|Llama-3.1-70B|nvfp4": (0.061, -0.176),
    "vllm|B200|MiniMax-M2.5|bf16+nvfp4": (-0.068, 0.045),
    "vllm|B200|MiniMax-M2.5|fp8": (0.137, 0.285),
    "vllm|B200|gpt-oss-120b|bf16+mxfp4": (-0.096, -0.280),
    "vllm|H100|Llama-3.1-70B|fp8": (0.005, -0.496),
    "vllm|H100|MiniMax-M2.5|fp8": (0.032, -0.161),
    "vllm|H100|Qwen3-32B|bf16": (0.013, 0.022),
    "vllm|H100|gpt-oss-120b|bf16+mxfp4": (-0.053, 0.018),
    "vllm|H200|Kimi-K2.5|bf16+int4_g32": (-0.039, 0.087),
    "vllm|H200|Llama-3.1-70B|fp8": (-0.005, -0.193),
    "vllm|H200|Llama-3.1-8B|fp8": (-0.508, -0.880),
    "vllm|H200|MiniMax-M2.5|fp8": (0.028, 0.104),
    "vllm|H200|Qwen3-235B-A22B|fp8": (0.193, -0.026),
    "vllm|H200|gpt-oss-120b|bf16+mxfp4": (-0.090, -0.113),
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
