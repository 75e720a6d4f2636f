from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from plenum.adapters.traces import mooncake
from plenum.adapters.traces.requests import read_requests
from plenum.model.errors import FieldError, FileError


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_a_trace_of_ones_own(tmp_path):
    requests = read_requests(
        written(
            tmp_path,
            "mine.csv",
            "arrival_s,prompt_tokens,output_tokens,priority,session,hash_ids\n"
            "2.5,1500,20,1,anna,sys a b\n"
            "0.5,600,0,,,sys c\n"
            "2.5,30,7,-2,anna,\n",
        )
    )
    assert requests.arrival_s.tolist() == [0.5, 2.5, 2.5]
    assert requests.prompt_tokens.tolist() == [600, 1500, 30]
    assert requests.output_tokens.tolist() == [1, 20, 7], (
        "an engine computes one token to find that there is nothing to say"
    )
    assert requests.priority.tolist() == [0, 1, -2]
    assert requests.session[0] == -1
    assert requests.session[1] == requests.session[2] >= 0
    assert requests.block_offset.tolist() == [0, 2, 5, 5]
    first, second = requests.block_id[:2], requests.block_id[2:5]
    assert first[0] == second[0], "the shared beginning"
    assert len({*first, *second}) == 4
    assert sorted({*first, *second}) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_mooncakes_lines(tmp_path, name):
    lines = (
        '{"timestamp": 3000, "input_length": 1025, "output_length": 9, "hash_ids": [0, 14, 15]}\n'
        '{"timestamp": 1500, "input_length": 600, "output_length": 5, "hash_ids": [0, 7]}\n\n'
    )
    requests = read_requests(written(tmp_path, name, lines))
    assert requests.arrival_s.tolist() == [1.5, 3.0]
    assert requests.block_tokens == 512
    assert requests.block_id[0] == requests.block_id[2]
    assert len(set(mooncake.sessions_of(requests))) == 2


def test_azures_table(tmp_path):
    table = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
    )
    requests = read_requests(written(tmp_path, "azure.csv.gz", table))
    assert requests.arrival_s.tolist() == pytest.approx([0, 4.314579], abs=1e-6)
    assert requests.output_tokens.tolist() == [44, 109]
    assert len(requests.block_id) == 0


def test_times_with_zones_and_seconds_since_1970(tmp_path):
    rows = "timestamp,prompt_tokens,output_tokens\n{},1,1\n{},1,1\n"
    zoned = written(tmp_path, "z.csv", rows.format("2024-05-10T02:00:00+02:00", "2024-05-10T00:00:01+00:00"))
    assert read_requests(zoned).arrival_s.tolist() == [0, 1]
    epoch = written(tmp_path, "e.csv", rows.format("1715299200.5", "1715299202"))
    assert read_requests(epoch).arrival_s.tolist() == [0, 1.5]


@pytest.mark.parametrize(
    ("name", "text", "field", "line", "says"),
    [
        ("a.csv", "arrival_s,prompt_tokens,output_tokens\n1,2,3\n1,x,3\n", "prompt_tokens", 3, "whole number"),
        ("a.csv", "arrival_s,prompt_tokens,output_tokens\n1,--2,3\n", "prompt_tokens", 2, "whole number"),
        ("a.csv", "arrival_s,prompt_tokens,output_tokens\n-1,2,3\n", "arrival_s", 2, "from 0"),
        ("a.csv", "arrival_s,prompt_tokens,output_tokens\nnan,2,3\n", "arrival_s", 2, "from 0"),
        ("a.csv", "timestamp,prompt_tokens,output_tokens\nnoon,2,3\n", "timestamp", 2, "date and time"),
        ("a.csv", "arrival_s,prompt_tokens,output_tokens,priority\n1,2,3,500\n", "priority", 2, "-100 to 100"),
        ("a.csv", "arrival_s,prompt_tokens,output_tokens,hash_ids\n1,512,3,a b\n", "hash_ids", 2, "2 blocks"),
        ("a.jsonl", '{"arrival_s": 1, "prompt_tokens": 2}\n', "", 1, "output_tokens"),
        (
            "a.jsonl",
            '{"arrival_s": 1, "prompt_tokens": 2, "output_tokens": 3}\n{"arrival_s": 1}\n',
            "prompt_tokens",
            2,
            "is missing",
        ),
        ("a.jsonl", '{"arrival_s": 1, "prompt_tokens": 2.5, "output_tokens": 3}\n', "prompt_tokens", 1, "whole number"),
        ("a.jsonl", '{"arrival_s": tru\n', "line", 1, "JSON"),
        ("a.jsonl", "[" * 5000 + "\n", "line", 1, "JSON"),
        ("a.jsonl", "[1]\n", "line", 1, "object"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(tmp_path, name, text, field, line, says):
    with pytest.raises((FieldError, FileError), match=says) as caught:
        read_requests(written(tmp_path, name, text))
    assert caught.value.where.field == field
    assert caught.value.where.line == line
    assert caught.value.where.file.endswith(name)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "arrival_s,prompt_tokens,output_tokens\n", "no requests"),
        ("a.jsonl", "\n\n", "no requests"),
        ("a.csv", "when,in,out\n1,2,3\n", "arrival_s or timestamp"),
        ("a.jsonl", '{"x": "' + "y" * 2**20 + '"}', "line of more than"),
    ],
)
def test_files_that_are_no_traces(tmp_path, name, text, says):
    with pytest.raises(FileError, match=says):
        read_requests(written(tmp_path, name, text))


def test_a_missing_and_a_broken_file(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_requests(tmp_path / "nothing.jsonl")
    (tmp_path / "b.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(FileError, match="gzip"):
        read_requests(tmp_path / "b.jsonl.gz")


def test_requests_keep_their_blocks_when_they_are_put_in_order(tmp_path):
    rng = np.random.default_rng(3)
    times = rng.permutation(50)
    lines = [
        f'{{"arrival_s": {t}, "prompt_tokens": 2048, "output_tokens": {t + 1}, "hash_ids": {list(range(t, t + 1 + t % 4))}}}'
        for t in times
    ]
    requests = read_requests(written(tmp_path, "o.jsonl", "\n".join(lines)))
    names = np.full(100, -1)
    for i in range(50):
        ids = requests.block_id[requests.block_offset[i] : requests.block_offset[i + 1]]
        assert len(ids) == 1 + i % 4
        for k, block in enumerate(ids):
            assert names[block] in (-1, i + k)
            names[block] = i + k
