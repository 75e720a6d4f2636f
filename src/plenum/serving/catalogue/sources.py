"""Where prices come from, and how an entry states its sources briefly."""

from __future__ import annotations

T = 1e12
"""Tera."""

DEVICE_PRICES = (
    "arXiv 2507.19635 table 5: A100 8,000, Gaudi3 12,500, MI300X 20,000, H100 25,000, B200 40,000 USD a device"
)

SERVER_PRICE = f"estimate: devices and a quarter more for hosts, NICs and chassis; {DEVICE_PRICES}"

RENT = "estimate: between published on-demand prices of GPU clouds, 2025 and 2026; your own contract goes first"


def priced(device: str, **fields: str) -> dict[str, str]:
    """Return sources by field: ``device`` (a data sheet) for what is not named, and the usual ones for prices."""
    data_sheet = dict.fromkeys(("peak_flops", "hbm_bytes", "hbm_bps", "tdp_w"), device)
    return data_sheet | {"server_usd": SERVER_PRICE, "usd_per_hour": RENT} | fields
