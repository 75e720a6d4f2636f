"""Room for connections: as many as the system lets the process have files for, with enough left for engines."""

import json
import resource
import subprocess
import sys

import pytest

from plenum.gateway.server import SPARE_FILES

PROGRAM = """
import json, resource, sys
from plenum.gateway.server import room_for
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(json.dumps([room_for(int(sys.argv[3])), *resource.getrlimit(resource.RLIMIT_NOFILE)]))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "room", "then"),
    [
        (300, 2_000, 500, 500, 1_000 + SPARE_FILES),
        (300, 1_000, 5_000, (1_000 - SPARE_FILES) // 2, 1_000),
        (1_500, 2_000, 10, 10, 1_500),
        (100, 100, 10, 1, 100),
    ],
)
def test_connections_leave_files_for_engines(soft, hard, asked, room, then):
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this machine has fewer files")
    words = [sys.executable, "-c", PROGRAM, *map(str, (soft, hard, asked))]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert json.loads(said) == [room, then, hard]
