"""What several gateways saw of experiments, put together."""

from __future__ import annotations

import msgspec

from plenum.cli.variants import together
from plenum.gateway.variants import Variants
from plenum.ports.engine import COMPLETIONS
from plenum.ports.gateway import Key
from plenum.ports.policy import Arm, Experiment, Policy


def test_figures_of_gateways_add_up_and_the_verdict_is_on_the_whole() -> None:
    experiment = Experiment(name="tone", model="chat", good_enough=0.7, arms=(Arm(name="only"),))
    answers = []
    for gateway in range(2):
        variants = Variants()
        variants.use({"acme": Policy(experiments=(experiment,))}, lambda *_: True)
        for request in range(20):
            id = f"{gateway}-{request}"
            body = {"model": "chat", "prompt": "x"}
            chosen = variants.apply(Key(id="k", hash="", tenant="acme"), COMPLETIONS, body, "", id)
            assert chosen
            variants.score("acme", chosen.request, 1.0)
        answers.append(msgspec.json.decode(msgspec.json.encode(variants.shown("acme"))))
    assert all("not enough yet" in answer[0]["verdict"] for answer in answers)

    (found,) = together(answers)

    assert found["arms"][0]["sums"]["scores"] == 40
    assert found["cheapest_good_enough"] == "only"
    assert together([]) == []
