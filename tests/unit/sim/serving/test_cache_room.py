"""How many tokens of cache an instance has room for depends on how long sequences are, where layers have windows."""

from __future__ import annotations

import numpy as np

from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.instance import Instance, cache_capacity_tokens
from plenum.serving.pools import Pool, Serving
from plenum.serving.predict import predict
from plenum.serving.roofline import compile_steps
from plenum.serving.workload import requests_of
from plenum.sim.serving import Policies
from plenum.sim.serving import fields as f
from plenum.sim.serving.build import world_of

GEMMA = Instance(model=model_named("Gemma-3-27B"), hardware=accelerator_named("H100"))
"""Sees 1,024 tokens in five of six layers."""


def test_the_simulator_takes_the_length_of_the_requests():
    requests = requests_of(np.zeros(4), np.full(4, 700), np.full(4, 100))
    serving = Serving(pools=(Pool(instance=GEMMA, steps=compile_steps(GEMMA), count=1),))
    world = world_of(requests, serving, Policies(), 0)
    room = int(world.ni[f.BLOCKS, 0]) * GEMMA.settings.block_tokens
    assert abs(room - cache_capacity_tokens(GEMMA, 750.0)) < GEMMA.settings.block_tokens
    assert room < cache_capacity_tokens(GEMMA) / 3


def test_the_predictor_takes_it_too():
    short = predict(GEMMA, isl=700, osl=100, concurrency=400.0)
    assert short.cache_tokens == cache_capacity_tokens(GEMMA, 750.0)
    assert short.batch * 750 < 1.05 * short.cache_tokens
