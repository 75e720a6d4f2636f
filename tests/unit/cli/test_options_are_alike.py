"""What the commands of planning and simulated serving have in common: options, names, numbers, and a help that is there at once."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from plenum.cli.console import write_json
from plenum.cli.fields import fields_as_options
from plenum.cli.plan_predict import command as predict
from plenum.cli.root import root
from plenum.cli.serving_cluster import Described, check_lengths, instance_of
from plenum.cli.simulate_serving import command as simulate
from plenum.model.errors import FieldError, PlenumError

PLANNING = ("serving", "predict", "calibrate", "training", "surroundings", "prefill", "experts", "agents", "models")


def test_predicting_and_simulating_describe_instances_with_the_same_options():
    def described(command: click.Command) -> dict[str, object]:
        names = ("model", "hardware", "tp", "pp", "dp", "ep", "weights", "kv_cache", "engine", "max_sequences", "chunk")
        found = {option.name: option for option in command.params if isinstance(option, click.Option)}
        return {name: (found[name].opts, found[name].default, found[name].help) for name in names}

    assert described(predict) == described(simulate)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tpo"], "there is no command 'tpo'; did you mean 'top'?"),
        (["plan", "srving"], "there is no command 'srving'; did you mean 'serving'?"),
        (["--tpo"], "No such option"),
    ],
)
def test_a_command_that_there_is_not_is_told_with_the_nearest(words, said):
    answer = CliRunner().invoke(root, words)
    assert (answer.exit_code, said in answer.output) == (2, True)


@pytest.mark.parametrize("name", PLANNING)
def test_formats_are_called_the_same_everywhere(name):
    command = root.get_command(click.Context(root), "plan")
    assert isinstance(command, click.Group)
    sub = command.get_command(click.Context(command), name)
    assert sub is not None
    offered = {text for option in sub.params for text in option.opts}
    assert not offered & {"--kv", "--kv-format", "--kv-formats", "--formats", "--sequences", "--instances"}
    assert sub.help is not None
    assert f"plenum plan {name}" in sub.help, "an example to copy"


def test_help_waits_for_no_arrays():
    code = (
        "import sys\nfrom plenum.cli.root import root\n"
        "for words in (['plan', '--help'], ['plan', 'serving', '--help'], ['simulate', 'serving', '--help']):\n"
        "    root.main(words, standalone_mode=False)\n"
        "sys.exit(bool({'numpy', 'numba', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        (["plan", "serving", "--model"], "llama-3.1-7", "Llama-3.1-70B"),
        (["plan", "serving", "--hardware"], "H200,h10", "H200,H100"),
        (["plan", "predict", "--kv-cache"], "fp8_e", "fp8_e5m2"),
        (["simulate", "serving", "--routing"], "random,pre", "random,prefix-aware"),
        (["simulate", "serving", "--trace"], "agent:re", "agent:react:"),
        (["plan", "prefill", "--preset"], "", "prfaas-paper"),
        (["plan", "experts", "--preset"], "", "sn40l"),
        (["plan", "agents", "--agent"], "la", "lats"),
        (["plan", "hardware"], "gau", "Gaudi3"),
        (["plan", "models"], "gpt-oss-1", "gpt-oss-120b"),
    ],
)
def test_names_are_completed(words, incomplete, found):
    offered = ShellComplete(root, {}, "plenum", "_PLENUM_COMPLETE").get_completions(words, incomplete)
    assert found in [item.value for item in offered]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tp": 3}, "--tp: must divide the 32 attention heads"),
        ({"pp": 33}, "--pp: must be at most the 32 layers"),
        ({"ep": 2, "tp": 2}, "--ep: .* has none"),
        ({"model": "Mixtral-8x7B", "tp": 4, "ep": 3}, "--ep: must divide tp x dp, 4"),
        ({"model": "Llama-3.2-3B", "tp": 3}, "--tp: must divide the 8 KV heads"),
        ({"hardware": "8xH100"}, "--hardware: takes the kind of device, H100"),
        ({"model": ""}, "no model is called"),
    ],
)
def test_what_no_engine_could_run_is_refused(changes, says):
    with pytest.raises(PlenumError, match=says):
        instance_of(Described(**({"model": "Llama-3.1-8B", "hardware": "H100"} | changes)))


def test_the_cache_is_16_bits_wide_unless_asked_otherwise():
    assert instance_of(Described(model="Llama-3.1-8B", hardware="H100", weights="fp8")).precision.kv_cache == "bf16"


def test_requests_longer_than_the_context_are_refused():
    instance = instance_of(Described(model="Llama-3.1-8B", hardware="H100"))
    check_lengths(instance, 131_000, 72)
    with pytest.raises(FieldError, match="131,072"):
        check_lengths(instance, 131_000, 73)


def test_json_has_no_infinity(capsys):
    write_json({"rate": float("inf"), "seen": [float("nan"), 1.5], "deep": ({"x": -float("inf")},)})
    assert json.loads(capsys.readouterr().out) == {"rate": None, "seen": [None, 1.5], "deep": [{"x": None}]}


def test_a_refused_field_is_told_by_its_option():
    with pytest.raises(FieldError, match="--seq: too long"), fields_as_options(sequence="--seq"):
        raise FieldError("sequence", "too long")
    with pytest.raises(FieldError, match="--mean-length: no"), fields_as_options():
        raise FieldError("mean_length", "no")
    with pytest.raises(FieldError, match=r"a\.csv:3: rate: no"), fields_as_options():
        raise FieldError("rate", "no", file="a.csv", line=3)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e999"])
def test_numbers_that_are_none_are_refused(value):
    asked = ["plan", "predict", "--model", "Llama-3.1-8B", "--hardware", "H100", "--rps", value]
    refused = CliRunner().invoke(root, asked)
    assert refused.exit_code == 2
    assert "--rps" in refused.output
