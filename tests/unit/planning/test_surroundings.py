"""What serving needs around its accelerators, against sums done by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner

from plenum.cli.root import root
from plenum.model.errors import FieldError
from plenum.planning.surroundings import Demand, Limits, Served, surroundings
from plenum.serving.catalogue.accelerators import ACCELERATORS
from plenum.serving.catalogue.models import MODELS
from plenum.serving.formats import Precision
from plenum.serving.instance import Instance, Parallelism

LLAMA = Instance(model=MODELS["Llama-3.1-70B"], hardware=ACCELERATORS["H100"], parallelism=Parallelism(tp=4))
EIGHT = Served(instance=LLAMA, count=8)
DEMAND = Demand(rate_rps=50.0, prompt_tokens_s=100_000.0, output_tokens_s=20_000.0, busy=0.5)
WEIGHTS = 2.0 * LLAMA.model.parameters


def test_servers_cores_and_watts_add_up():
    found = surroundings([EIGHT], DEMAND)
    assert found.servers == 4  # 32 devices, eight a server
    assert found.cores_by_use == pytest.approx(
        {"engines": 8 * (2 + 4), "tokenising": 0.2, "streaming": 0.4, "routing": 0.05, "system": 16}
    )
    assert found.cores == pytest.approx(1.3 * 64.65)
    server = 8 * (75 + 0.5 * 625) + 4600
    assert found.it_w == pytest.approx(4 * server)
    assert found.meter_w == pytest.approx(1.2 * 4 * server)
    assert found.peak_w == pytest.approx(4 * 10_200)  # what the DGX H100 data sheet says
    assert found.racks == 2  # three of 10.2 kW in 40 kW


def test_loading_and_updating():
    found = surroundings([EIGHT], DEMAND, Limits(load_s=60.0, update_s=900.0, drain_s=90.0))
    copied = WEIGHTS / 4 / 64e9
    assert found.load_bps == pytest.approx(WEIGHTS / (60 - copied))
    assert found.update_bps == pytest.approx(8 * WEIGHTS / 900)
    assert found.update_at_once == 2  # six turns of 150 s for eight instances
    assert found.spare_devices == 8


def test_a_time_below_the_host_link_cannot_be_kept():
    found = surroundings([EIGHT], DEMAND, Limits(load_s=0.5))
    assert found.load_bps == math.inf
    assert found.binding.startswith("short of storage network")


def test_memory_and_drives():
    found = surroundings([replace(EIGHT, dram_tokens=1_000_000, nvme_tokens=10_000_000)], DEMAND)
    token = 2 * 2 * 80 * 8 * 128  # bytes of one
    ram = 32e9 + 8 * 16e9 + WEIGHTS + 2 * 1_000_000 * token
    assert found.ram_bytes == pytest.approx(4 * ram)
    assert found.drive_bytes == pytest.approx(4 * (100e9 + 2 * WEIGHTS + 2 * 10_000_000 * token))


@pytest.mark.parametrize(
    ("served", "demand", "limits", "resource"),
    [
        (EIGHT, DEMAND, Limits(rack_w=8000), "rack power"),
        (EIGHT, replace(DEMAND, output_tokens_s=3e7), Limits(), "host cores"),
        (replace(EIGHT, dram_tokens=10_000_000), DEMAND, Limits(), "host memory"),
        (replace(EIGHT, nvme_tokens=80_000_000), DEMAND, Limits(), "local drives"),
        (EIGHT, DEMAND, Limits(load_s=3.0), "storage network"),
    ],
)
def test_the_scarcest_resource_is_named(served, demand, limits, resource):
    found = surroundings([served], demand, limits)
    assert found.needs[0].resource == resource
    assert found.needs[0].share > 1
    assert found.binding.startswith(f"short of {resource}: ")
    assert [need.share for need in found.needs] == sorted((need.share for need in found.needs), reverse=True)


def test_a_rack_that_bears_no_server_holds_none():
    assert surroundings([EIGHT], DEMAND, Limits(rack_w=8000)).racks == 0


def test_an_instance_over_several_servers_loads_its_parts_at_once():
    model, hardware = MODELS["DeepSeek-R1"], ACCELERATORS["H100"]
    wide = Instance(
        model=model, hardware=hardware, precision=Precision(weights="fp8"), parallelism=Parallelism(tp=8, dp=2, ep=16)
    )
    found = surroundings([Served(instance=wide, count=1)], DEMAND)
    assert found.servers == 2
    assert found.load_bps == pytest.approx(672.9e9 / 2 / 120, rel=0.02)


def test_pools_of_different_hardware_add_up():
    decode = Served(instance=replace(LLAMA, hardware=ACCELERATORS["H200"]), count=4)
    both = surroundings([EIGHT, decode], DEMAND)
    alone = surroundings([EIGHT], DEMAND), surroundings([decode], DEMAND)
    assert both.servers == sum(part.servers for part in alone)
    assert both.it_w == pytest.approx(sum(part.it_w for part in alone))
    assert both.ram_bytes == pytest.approx(sum(part.ram_bytes for part in alone))


@pytest.mark.parametrize(
    ("served", "demand", "limits", "field"),
    [
        ([], DEMAND, Limits(), "served"),
        ([replace(EIGHT, count=0)], DEMAND, Limits(), "served"),
        ([EIGHT], replace(DEMAND, rate_rps=-1.0), Limits(), "rate_rps"),
        ([EIGHT], replace(DEMAND, output_tokens_s=math.nan), Limits(), "output_tokens_s"),
        ([EIGHT], replace(DEMAND, busy=2.0), Limits(), "busy"),
        ([EIGHT], DEMAND, Limits(rack_w=0.0), "rack_w"),
    ],
)
def test_numbers_that_cannot_be_meant(served, demand, limits, field):
    with pytest.raises(FieldError) as caught:
        surroundings(served, demand, limits)
    assert caught.value.where.field == field


def test_the_command_line_says_the_same():
    arguments = ["plan", "surroundings", "--model", "Llama-3.1-70B", "--hardware", "H100", "--tp", "4", "--replicas", "8",
                 "--rps", "50", "--isl", "2000", "--osl", "400", "--busy", "0.5"]  # fmt: skip
    said = json.loads(CliRunner().invoke(root, [*arguments, "-o", "json"]).stdout)
    found = surroundings([EIGHT], DEMAND)
    assert said["meter_w"] == pytest.approx(found.meter_w)
    assert said["binding"] == found.binding
    text = CliRunner().invoke(root, arguments).stdout
    assert found.binding in text
    assert "storage network" in text
