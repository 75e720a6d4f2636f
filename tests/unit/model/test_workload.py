"""Requests and workloads refuse what cannot be meant, naming the field."""

from __future__ import annotations

import pytest

from plenum.model import Apart, FieldError, Kind, Parallelism, Request, Role, Together, Workload


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"gpus": 4, "gpu_milli": 300}, "gpu_milli", "a share of 0.3 GPU goes with exactly one GPU, not 4"),
        ({"gpus": -1}, "gpus", "must be a whole number from 0 to 64, not -1"),
        ({"gpus": True}, "gpus", "not True"),
        ({"cpu_milli": -5}, "cpu_milli", "not -5"),
        ({"gpus": 1, "mig": "5g"}, "mig", "there is no profile '5g'; the profiles are 1g, 2g, 3g, 4g, 7g"),
        ({"gpus": 2, "mig": "1g"}, "mig", "exactly one GPU"),
        ({"gpus": 2, "nics": 1, "aligned": "pcie"}, "nics", "every GPU has one NIC of its own"),
        ({"extra": (("cxl_bytes", -1),)}, "cxl_bytes", "not -1"),
    ],
)
def test_requests_name_the_field_at_fault(fields: dict, field: str, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        Request(**fields)
    assert caught.value.where.field == field
    assert words in caught.value.sentence


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Together(level="fabric.leef"), "there is no level 'fabric.leef'; the levels are place.site"),
        (lambda: Together(level="place.numa"), "say aligned: numa"),
        (lambda: Apart(level="place.rack", max_per_domain=0), "from 1 to"),
        (lambda: Parallelism(tp=2, dp=3, ep=4), "must divide tp x dp = 6"),
        (lambda: Role(replicas=2, min_replicas=3), "from 0 to 2"),
        (lambda: Workload(name="w", roles=(Role(), Role())), "two roles share a name"),
        (lambda: Workload(name="w", apart=(Apart(level="place.rack", role="x"),)), "there is no role 'x'"),
        (
            lambda: Workload(name="w", roles=(Role(replicas=3),), together=(Together(level="place.rack", block=2),)),
            "blocks of 2 must divide the 3 replicas",
        ),
        (
            lambda: Workload(name="w", kind=Kind.TRAINING_JOB, parallelism=Parallelism(tp=8)),
            "tp x pp x dp = 8, but the roles ask for 0 GPUs",
        ),
    ],
)
def test_workloads_say_what_would_be_right(make, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        make()
    assert words in caught.value.sentence


def test_a_mig_slice_counts_the_memory_eighths_it_takes() -> None:
    assert Request(gpus=1, mig="3g").gpu_milli == 500


def test_elastic_sizes_start_at_the_largest_and_end_at_the_smallest() -> None:
    assert Role(replicas=10, min_replicas=4, step=3).sizes() == (10, 7, 4)
    assert Role(replicas=9, min_replicas=4, step=3).sizes() == (7, 4)
    assert len(Role(replicas=1000, min_replicas=1).sizes()) <= 64


def test_a_family_names_all_its_models() -> None:
    assert Request(gpus=1, gpu_models=("H100",)).accepts("H100-80GB-HBM3")
    assert not Request(gpus=1, gpu_models=("H100",)).accepts("H1000")
