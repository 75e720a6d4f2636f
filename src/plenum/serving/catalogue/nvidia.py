"""NVIDIA's accelerators. FLOP/s are dense ones: half of what data sheets print beside "with sparsity"."""

from __future__ import annotations

from plenum.serving.catalogue.sources import T, priced
from plenum.serving.hardware import Accelerator

_IDLE = "estimate: tenth of TDP; idle H100s read 60 to 80 W"

_HOPPER = {
    "bf16": 989.4 * T,
    "fp16": 989.4 * T,
    "tf32": 494.7 * T,
    "fp32": 66.9 * T,
    "fp8": 1978.9 * T,
    "int8": 1978.9 * T,
}
_BLACKWELL = {
    "bf16": 2250 * T, "fp16": 2250 * T, "tf32": 1125 * T, "fp32": 75 * T, "fp8": 4500 * T, "mxfp8": 4500 * T,
    "int8": 4500 * T, "nvfp4": 9000 * T, "mxfp4": 9000 * T,
}  # fmt: skip

_RUNPOD = "RunPod's list for its own data centres, March 2026"
_HGX_LINK = "{} GB/s of NVLink both ways, half of it one way"
_NO_INT8 = "left out: 153.5 TOPS are slower than BF16, so INT8 weights are computed in BF16"

ACCELERATORS: tuple[Accelerator, ...] = (
    Accelerator(
        name="A100", vendor="NVIDIA",
        aliases=("A100-80GB", "a100_sxm", "A100-SXM4-80GB", "NVIDIA-A100-SXM4-80GB", "DGX-A100"),
        peak_flops={"bf16": 312 * T, "fp16": 312 * T, "tf32": 156 * T, "fp32": 19.5 * T, "int8": 624 * T},
        hbm_bytes=80 * 2**30, hbm_bps=2.039e12, scaleup_bps=300e9, scaleup_size=8, scaleout_bps=25e9, host_bps=32e9,
        tdp_w=400, idle_w=50, server_devices=8, server_overhead_w=3300, server_usd=100e3, usd_per_hour=1.39,
        sources=priced(
            "NVIDIA A100 80GB data sheet (SXM)", usd_per_hour=_RUNPOD, scaleup_bps=_HGX_LINK.format(600),
            scaleout_bps="DGX A100 data sheet: eight ConnectX-6 of 200 Gb/s", host_bps="PCIe 4.0 x16",
            server_overhead_w="DGX A100 data sheet: 6.5 kW, less the GPUs", idle_w=_IDLE,
        ),
    ),
    Accelerator(
        name="A100-40GB", vendor="NVIDIA", aliases=("a100_sxm_40gb", "NVIDIA-A100-SXM4-40GB"),
        peak_flops={"bf16": 312 * T, "fp16": 312 * T, "tf32": 156 * T, "fp32": 19.5 * T, "int8": 624 * T},
        hbm_bytes=40 * 2**30, hbm_bps=1.555e12, scaleup_bps=300e9, scaleup_size=8, scaleout_bps=25e9, host_bps=32e9,
        tdp_w=400, idle_w=50, server_devices=8, server_overhead_w=3300, server_usd=80e3, usd_per_hour=1.29,
        sources=priced("NVIDIA A100 data sheet (SXM 40 GB)", scaleup_bps=_HGX_LINK.format(600), idle_w=_IDLE),
    ),
    Accelerator(
        name="H100", vendor="NVIDIA",
        aliases=("h100_sxm", "H100-SXM", "H100-80GB", "H100-SXM5-80GB", "NVIDIA-H100-80GB-HBM3", "DGX-H100", "HGX-H100"),
        peak_flops=_HOPPER, hbm_bytes=80 * 2**30, hbm_bps=3.35e12, scaleup_bps=450e9, scaleup_size=8, scaleout_bps=50e9,
        host_bps=64e9, tdp_w=700, idle_w=75, server_devices=8, server_overhead_w=4600, server_usd=250e3, usd_per_hour=2.69,
        sources=priced(
            "NVIDIA H100 data sheet (SXM)", usd_per_hour=_RUNPOD, scaleup_bps=_HGX_LINK.format(900),
            scaleout_bps="DGX H100 data sheet: eight ConnectX-7 of 400 Gb/s", host_bps="PCIe 5.0 x16",
            server_overhead_w="DGX H100 data sheet: 10.2 kW at most, less the GPUs", idle_w=_IDLE,
        ),
    ),
    Accelerator(
        name="H100-PCIe", vendor="NVIDIA", aliases=("h100_pcie", "NVIDIA-H100-PCIe"),
        peak_flops={"bf16": 756 * T, "fp16": 756 * T, "tf32": 378 * T, "fp32": 51 * T, "fp8": 1513 * T, "int8": 1513 * T},
        hbm_bytes=80 * 2**30, hbm_bps=2.0e12, scaleup_bps=64e9, scaleup_size=8, scaleout_bps=50e9, host_bps=64e9,
        tdp_w=350, idle_w=50, server_devices=8, server_overhead_w=1500, server_usd=220e3, usd_per_hour=1.99,
        sources=priced("NVIDIA H100 data sheet (PCIe)", usd_per_hour=_RUNPOD, idle_w=_IDLE,
                       scaleup_bps="PCIe 5.0 x16; without NVLink bridges"),
    ),
    Accelerator(
        name="H200", vendor="NVIDIA", aliases=("h200_sxm", "H200-SXM", "H200-141GB", "NVIDIA-H200", "DGX-H200", "HGX-H200"),
        peak_flops=_HOPPER, hbm_bytes=143_771 * 2**20, hbm_bps=4.8e12, scaleup_bps=450e9, scaleup_size=8, scaleout_bps=50e9,
        host_bps=64e9, tdp_w=700, idle_w=75, server_devices=8, server_overhead_w=4600, server_usd=300e3, usd_per_hour=3.59,
        sources=priced(
            "NVIDIA H200 data sheet (SXM)", usd_per_hour=_RUNPOD,
            hbm_bytes="nvidia-smi reports 143,771 MiB", scaleup_bps=_HGX_LINK.format(900),
            scaleout_bps="DGX H200 data sheet: eight ConnectX-7 of 400 Gb/s", host_bps="PCIe 5.0 x16",
            server_overhead_w="DGX H200 data sheet: 10.2 kW at most, less the GPUs", idle_w=_IDLE,
        ),
    ),
    Accelerator(
        name="H800", vendor="NVIDIA", aliases=("h800_sxm", "H800-SXM", "NVIDIA-H800"),
        peak_flops=_HOPPER, hbm_bytes=80 * 2**30, hbm_bps=3.35e12, scaleup_bps=200e9, scaleup_size=8, scaleout_bps=50e9,
        host_bps=64e9, tdp_w=700, idle_w=75, server_devices=8, server_overhead_w=4600, server_usd=250e3, usd_per_hour=2.0,
        sources=priced(
            "NVIDIA H800 data sheet (SXM): an H100 with less NVLink", scaleup_bps=_HGX_LINK.format(400),
            scaleout_bps="eight ConnectX-7 of 400 Gb/s a server", idle_w=_IDLE,
            usd_per_hour="arXiv 2412.19437 section 1 assumes 2 USD",
        ),
    ),
    Accelerator(
        name="H20", vendor="NVIDIA", aliases=("h20_sxm", "H20-96GB", "NVIDIA-H20"),
        peak_flops={"bf16": 148 * T, "fp16": 148 * T, "tf32": 74 * T, "fp32": 44 * T, "fp8": 296 * T, "int8": 296 * T},
        hbm_bytes=97_871 * 2**20, hbm_bps=4.0e12, scaleup_bps=450e9, scaleup_size=8, scaleout_bps=50e9, host_bps=64e9, tdp_w=400,
        idle_w=60, server_devices=8, server_overhead_w=3500, server_usd=130e3, usd_per_hour=1.5,
        sources=priced("NVIDIA H20 data sheet (HGX, 96 GB)", scaleup_bps=_HGX_LINK.format(900), idle_w=_IDLE),
    ),
    Accelerator(
        name="B200", vendor="NVIDIA", aliases=("b200_sxm", "B200-SXM", "NVIDIA-B200", "DGX-B200", "HGX-B200"),
        peak_flops=_BLACKWELL, hbm_bytes=183_359 * 2**20, hbm_bps=7.7e12, scaleup_bps=900e9, scaleup_size=8, scaleout_bps=50e9,
        host_bps=64e9, tdp_w=1000, idle_w=110, server_devices=8, server_overhead_w=6300, server_usd=400e3, usd_per_hour=5.98,
        sources=priced(
            "NVIDIA Blackwell data sheet (HGX B200)", usd_per_hour=_RUNPOD,
            hbm_bytes="nvidia-smi reports 183,359 MiB", scaleup_bps=_HGX_LINK.format(1800),
            scaleout_bps="DGX B200 data sheet: eight ConnectX-7 of 400 Gb/s", host_bps="PCIe 5.0 x16 to the host",
            server_overhead_w="DGX B200 data sheet: 14.3 kW at most, less the GPUs", idle_w=_IDLE,
        ),
    ),
    Accelerator(
        name="B300", vendor="NVIDIA", aliases=("b300_sxm", "B300-SXM", "NVIDIA-B300", "DGX-B300", "HGX-B300"),
        peak_flops={
            "bf16": 2250 * T, "fp16": 2250 * T, "tf32": 1125 * T, "fp32": 75 * T, "fp8": 4500 * T, "mxfp8": 4500 * T,
            "nvfp4": 13_500 * T, "mxfp4": 13_500 * T,
        },
        hbm_bytes=275_040 * 2**20, hbm_bps=7.75e12, scaleup_bps=900e9, scaleup_size=8, scaleout_bps=100e9, host_bps=128e9, tdp_w=1100,
        idle_w=120, server_devices=8, server_overhead_w=5200, server_usd=500e3, usd_per_hour=7.0,
        sources=priced(
            "NVIDIA Blackwell Ultra data sheet (HGX B300)",
            hbm_bytes="nvidia-smi reports 275,040 MiB", scaleup_bps=_HGX_LINK.format(1800),
            scaleout_bps="DGX B300 data sheet: eight ConnectX-8 of 800 Gb/s", host_bps="PCIe 6.0 x16",
            server_overhead_w="DGX B300 data sheet: about 14 kW, less the GPUs", idle_w=_IDLE,
            **{"peak_flops.int8": _NO_INT8, "peak_flops.nvfp4": "HGX B300: 108 PFLOPS dense over eight"},
        ),
    ),
    Accelerator(
        name="GB200", vendor="NVIDIA", aliases=("gb200_sxm", "gb200_nvl72", "GB200-NVL72", "NVIDIA-GB200"),
        peak_flops={
            "bf16": 2500 * T, "fp16": 2500 * T, "tf32": 1250 * T, "fp32": 80 * T, "fp8": 5000 * T, "mxfp8": 5000 * T,
            "int8": 5000 * T, "nvfp4": 10_000 * T, "mxfp4": 10_000 * T,
        },
        hbm_bytes=189_471 * 2**20, hbm_bps=8e12, scaleup_bps=900e9, scaleup_size=72, scaleout_bps=50e9, host_bps=225e9, tdp_w=1200,
        idle_w=130, server_devices=4, server_overhead_w=1900, server_usd=170e3, usd_per_hour=6.5,
        sources=priced(
            "NVIDIA GB200 NVL72 data sheet, one of 72 GPUs",
            hbm_bytes="nvidia-smi reports 189,471 MiB", scaleup_bps=_HGX_LINK.format(1800),
            scaleout_bps="one ConnectX-7 of 400 Gb/s a GPU", host_bps="NVLink-C2C: 900 GB/s both ways for two GPUs",
            server_overhead_w="about 120 kW a rack of 18 trays, less the GPUs", idle_w=_IDLE,
            server_usd="estimate: about 3 million USD a rack of 18 trays",
        ),
    ),
    Accelerator(
        name="GB300", vendor="NVIDIA", aliases=("gb300_sxm", "gb300_nvl72", "GB300-NVL72", "NVIDIA-GB300"),
        peak_flops={
            "bf16": 2500 * T, "fp16": 2500 * T, "tf32": 1250 * T, "fp32": 80 * T, "fp8": 5000 * T, "mxfp8": 5000 * T,
            "nvfp4": 15_000 * T, "mxfp4": 15_000 * T,
        },
        hbm_bytes=284_208 * 2**20, hbm_bps=8e12, scaleup_bps=900e9, scaleup_size=72, scaleout_bps=100e9, host_bps=225e9, tdp_w=1400,
        idle_w=150, server_devices=4, server_overhead_w=2000, server_usd=210e3, usd_per_hour=8.0,
        sources=priced(
            "NVIDIA GB300 NVL72 data sheet, one of 72 GPUs",
            hbm_bytes="nvidia-smi reports 284,208 MiB", scaleup_bps=_HGX_LINK.format(1800),
            scaleout_bps="one ConnectX-8 of 800 Gb/s a GPU", host_bps="NVLink-C2C: 900 GB/s both ways for two GPUs",
            server_overhead_w="about 137 kW a rack of 18 trays, less the GPUs", idle_w=_IDLE,
            server_usd="estimate: about 3.8 million USD a rack of 18 trays", **{"peak_flops.int8": _NO_INT8},
        ),
    ),
    Accelerator(
        name="L40S", vendor="NVIDIA", aliases=("NVIDIA-L40S", "l40s_pcie"),
        peak_flops={
            "bf16": 362.05 * T, "fp16": 362.05 * T, "tf32": 183 * T, "fp32": 91.6 * T, "fp8": 733 * T, "int8": 733 * T,
        },
        hbm_bytes=46_068 * 2**20, hbm_bps=864e9, scaleup_bps=32e9, scaleup_size=8, scaleout_bps=25e9, host_bps=32e9, tdp_w=350,
        idle_w=35, server_devices=8, server_overhead_w=1500, server_usd=95e3, usd_per_hour=0.79,
        sources=priced("NVIDIA L40S data sheet", usd_per_hour=_RUNPOD,
            hbm_bytes="nvidia-smi reports 46,068 MiB", scaleup_bps="PCIe 4.0 x16: it has no NVLink", idle_w=_IDLE),
    ),
    Accelerator(
        name="A10", vendor="NVIDIA", aliases=("NVIDIA-A10", "a10_pcie", "A10G"),
        peak_flops={"bf16": 125 * T, "fp16": 125 * T, "tf32": 62.5 * T, "fp32": 31.2 * T, "int8": 250 * T},
        hbm_bytes=23_028 * 2**20, hbm_bps=600e9, scaleup_bps=32e9, scaleup_size=4, scaleout_bps=12.5e9, host_bps=32e9, tdp_w=150,
        idle_w=20, server_devices=4, server_overhead_w=600, server_usd=24e3, usd_per_hour=0.6,
        sources=priced("NVIDIA A10 data sheet", scaleup_bps="PCIe 4.0 x16: it has no NVLink", idle_w=_IDLE),
    ),
)  # fmt: skip
"""Entries."""
