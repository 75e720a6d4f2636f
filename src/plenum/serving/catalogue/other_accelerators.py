"""Accelerators of AMD, Intel, Google and SambaNova, and CPU sockets. FLOP/s are dense ones."""

from __future__ import annotations

from plenum.serving.catalogue.sources import T, priced
from plenum.serving.hardware import Accelerator

_CDNA3 = {
    "bf16": 1307.4 * T,
    "fp16": 1307.4 * T,
    "tf32": 653.7 * T,
    "fp32": 163.4 * T,
    "fp8": 2614.9 * T,
    "int8": 2614.9 * T,
}
_MESH = "seven Infinity Fabric links of {} GB/s one way to the other seven"
_TPU_WATTS = "estimate: Google states none; chip and its share of the board"

ACCELERATORS: tuple[Accelerator, ...] = (
    Accelerator(
        name="MI300X", vendor="AMD", aliases=("AMD-Instinct-MI300X", "mi300x_oam"),
        peak_flops=_CDNA3, hbm_bytes=192 * 2**30, hbm_bps=5.3e12, scaleup_bps=448e9, scaleup_size=8, scaleout_bps=50e9,
        host_bps=64e9, tdp_w=750, idle_w=140, server_devices=8, server_overhead_w=3500, server_usd=200e3, usd_per_hour=1.85,
        sources=priced("AMD Instinct MI300X data sheet", scaleup_bps=_MESH.format(64), host_bps="PCIe 5.0 x16",
                       usd_per_hour="Vultr's on-demand price, 2026"),
    ),
    Accelerator(
        name="MI325X", vendor="AMD", aliases=("AMD-Instinct-MI325X", "mi325x_oam"),
        peak_flops=_CDNA3, hbm_bytes=256 * 2**30, hbm_bps=6.0e12, scaleup_bps=448e9, scaleup_size=8, scaleout_bps=50e9,
        host_bps=64e9, tdp_w=1000, idle_w=150, server_devices=8, server_overhead_w=3800, server_usd=230e3, usd_per_hour=2.25,
        sources=priced("AMD Instinct MI325X data sheet", scaleup_bps=_MESH.format(64), host_bps="PCIe 5.0 x16"),
    ),
    Accelerator(
        name="MI355X", vendor="AMD", aliases=("AMD-Instinct-MI355X", "mi355x_oam"),
        peak_flops={
            "bf16": 2516.6 * T, "fp16": 2516.6 * T, "fp32": 157.3 * T, "fp8": 5033.2 * T, "mxfp8": 5033.2 * T,
            "int8": 5033.2 * T, "mxfp4": 10_066.3 * T,
        },
        hbm_bytes=288 * 2**30, hbm_bps=8e12, scaleup_bps=537.6e9, scaleup_size=8, scaleout_bps=50e9, host_bps=64e9, tdp_w=1400,
        idle_w=180, server_devices=8, server_overhead_w=4500, server_usd=320e3, usd_per_hour=3.5,
        sources=priced("AMD Instinct MI355X data sheet", scaleup_bps=_MESH.format(76.8), host_bps="PCIe 5.0 x16",
                       **{"peak_flops.nvfp4": "none: CDNA 4 computes the OCP formats only"}),
    ),
    Accelerator(
        name="Gaudi3", vendor="Intel", aliases=("Gaudi-3", "HL-325L", "Intel-Gaudi-3"),
        peak_flops={"bf16": 1835 * T, "fp16": 459 * T, "fp8": 1835 * T, "fp32": 229 * T},
        hbm_bytes=128 * 2**30, hbm_bps=3.7e12, scaleup_bps=525e9, scaleup_size=8, scaleout_bps=75e9, host_bps=64e9, tdp_w=900,
        idle_w=150, server_devices=8, server_overhead_w=3500, server_usd=160e3, usd_per_hour=1.75,
        sources=priced("Intel Gaudi 3 white paper and Hot Chips 2024", scaleup_bps="21 of 24 ports of 200 Gb/s",
                       scaleout_bps="3 of 24 ports of 200 Gb/s", host_bps="PCIe 5.0 x16",
                       server_usd="estimate: Intel's 125,000 USD for eight on a board, and the host"),
    ),
    Accelerator(
        name="TPU-v5e", vendor="Google", aliases=("v5e", "tpu_v5e", "v5litepod"),
        peak_flops={"bf16": 197 * T, "int8": 393 * T},
        hbm_bytes=16 * 2**30, hbm_bps=819e9, scaleup_bps=200e9, scaleup_size=256, scaleout_bps=3.125e9, host_bps=16e9,
        tdp_w=220, idle_w=60, server_devices=8, server_overhead_w=600, server_usd=40e3, usd_per_hour=1.2,
        sources=priced("Google Cloud TPU documentation: v5e", scaleup_bps="ICI: 1,600 Gb/s",
                       scaleout_bps="two NICs of 100 Gb/s for eight chips", tdp_w=_TPU_WATTS,
                       server_usd="estimate: not sold", usd_per_hour="Google Cloud's on-demand price, us-central"),
    ),
    Accelerator(
        name="TPU-v5p", vendor="Google", aliases=("v5p", "tpu_v5p"),
        peak_flops={"bf16": 459 * T, "int8": 918 * T},
        hbm_bytes=95 * 2**30, hbm_bps=2.765e12, scaleup_bps=600e9, scaleup_size=8960, scaleout_bps=6.25e9, host_bps=32e9,
        tdp_w=450, idle_w=100, server_devices=4, server_overhead_w=600, server_usd=60e3, usd_per_hour=4.2,
        sources=priced("Google Cloud TPU documentation: v5p", scaleup_bps="ICI: 4,800 Gb/s", tdp_w=_TPU_WATTS,
                       server_usd="estimate: not sold", usd_per_hour="Google Cloud's on-demand price, us-east"),
    ),
    Accelerator(
        name="TPU-v6e", vendor="Google", aliases=("v6e", "tpu_v6e", "Trillium"),
        peak_flops={"bf16": 918 * T, "int8": 1836 * T},
        hbm_bytes=32 * 2**30, hbm_bps=1.638e12, scaleup_bps=400e9, scaleup_size=256, scaleout_bps=12.5e9, host_bps=32e9,
        tdp_w=300, idle_w=80, server_devices=8, server_overhead_w=800, server_usd=80e3, usd_per_hour=2.7,
        sources=priced("Google Cloud TPU documentation: v6e", scaleup_bps="ICI: 800 GB/s both ways, half of it one way",
                       scaleout_bps="four NICs of 200 Gb/s for eight chips", tdp_w=_TPU_WATTS,
                       server_usd="estimate: not sold", usd_per_hour="Google Cloud's on-demand price, us-east"),
    ),
    Accelerator(
        name="SN40L", vendor="SambaNova", aliases=("sn40l_socket",),
        peak_flops={"bf16": 638 * T},
        hbm_bytes=64 * 2**30, hbm_bps=1.8e12, scaleup_bps=100e9, scaleup_size=8, scaleout_bps=25e9, host_bps=125e9,
        tdp_w=600, idle_w=100, server_devices=8, server_overhead_w=2000, server_usd=300e3, usd_per_hour=4.0,
        sources=priced("arXiv 2405.07518: one of eight sockets, with 1.5 TiB of DDR beside the HBM",
                       hbm_bps="arXiv 2405.07518 says 1.6 to 2 TB/s", host_bps="over 1 TB/s from DDR to HBM for eight",
                       scaleup_bps="estimate", tdp_w="estimate", server_usd="estimate"),
    ),
    Accelerator(
        name="Xeon-6980P", vendor="Intel", aliases=("Granite-Rapids", "xeon_6980p", "Xeon"),
        peak_flops={"bf16": 262.1 * T, "fp16": 262.1 * T, "int8": 524.3 * T, "fp32": 16.4 * T},
        hbm_bytes=768 * 2**30, hbm_bps=844.8e9, scaleup_bps=144e9, scaleup_size=2, scaleout_bps=25e9, host_bps=844.8e9,
        tdp_w=500, idle_w=120, server_devices=2, server_overhead_w=400, server_usd=45e3, usd_per_hour=2.5,
        sources=priced("128 cores at 2.0 GHz with AMX: 1,024 BF16 FLOP a cycle and core; twelve channels of MRDIMM-8800",
                       hbm_bytes="twelve modules of 64 GB", scaleup_bps="six UPI links of 24 GT/s", server_usd="estimate"),
    ),
    Accelerator(
        name="Xeon-8480", vendor="Intel", aliases=("Sapphire-Rapids", "xeon_8480", "Xeon-8480+"),
        peak_flops={"bf16": 114.7 * T, "int8": 229.4 * T, "fp32": 7.2 * T},
        hbm_bytes=512 * 2**30, hbm_bps=307.2e9, scaleup_bps=48e9, scaleup_size=2, scaleout_bps=25e9, host_bps=307.2e9,
        tdp_w=350, idle_w=100, server_devices=2, server_overhead_w=300, server_usd=25e3, usd_per_hour=1.5,
        sources=priced("56 cores at 2.0 GHz with AMX: 1,024 BF16 FLOP a cycle and core; eight channels of DDR5-4800",
                       hbm_bytes="eight modules of 64 GB", scaleup_bps="four UPI links of 16 GT/s, about 12 GB/s each kept",
                       server_usd="estimate"),
    ),
    Accelerator(
        name="EPYC-9755", vendor="AMD", aliases=("Turin", "epyc_9755", "EPYC"),
        peak_flops={"bf16": 44.2 * T, "int8": 88.5 * T, "fp32": 22.1 * T},
        hbm_bytes=768 * 2**30, hbm_bps=576e9, scaleup_bps=96e9, scaleup_size=2, scaleout_bps=25e9, host_bps=576e9,
        tdp_w=500, idle_w=120, server_devices=2, server_overhead_w=400, server_usd=35e3, usd_per_hour=2.0,
        sources=priced("128 Zen 5 cores at 2.7 GHz: two 512-bit units, 128 BF16 FLOP a cycle; twelve channels of DDR5-6000",
                       hbm_bytes="twelve modules of 64 GB", scaleup_bps="three xGMI links of 32 GB/s", server_usd="estimate"),
    ),
)  # fmt: skip
"""Entries."""
