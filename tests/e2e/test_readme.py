"""What the README and the map say is so: commands run, links and paths lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONSOLE = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
PLENUM = [command for command in CONSOLE if command.startswith("plenum ")]
SLOW = [command for command in PLENUM if command.startswith(("plenum replay openb", "plenum replay philly"))]
WAITS = 1
"""Exit code of ``place`` where something waits, as it does in the example."""


def run(command: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)[1:]
    return subprocess.run(
        [sys.executable, "-m", "plenum", *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_readme_shows_every_main_command() -> None:
    shown = {command.split()[1] for command in PLENUM}
    assert {"fleet", "place", "explain", "replay"} <= shown


@pytest.mark.parametrize("command", [command for command in PLENUM if command not in SLOW])
def test_quick_commands_of_the_readme_work(command: str) -> None:
    done = run(command)
    expected = WAITS if command.startswith("plenum place") else 0
    assert done.returncode == expected, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", SLOW)
def test_options_of_slow_commands_exist(command: str) -> None:
    offered = run("plenum replay --help").stdout
    for option in re.findall(r"--[a-z-]+", command):
        assert option in offered


def test_the_explanation_shown_is_the_one_given() -> None:
    shown = re.search(r"```text\n(.*?)\n```", README, re.DOTALL)
    assert shown
    command = next(command for command in PLENUM if command.startswith("plenum explain"))
    assert run(command).stdout.splitlines()[0] == shown[1]


@pytest.mark.parametrize("target", [command for command in CONSOLE if command.startswith("make ")])
def test_make_targets_of_the_readme_exist(target: str) -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"  {target} " in listed


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/map.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_paths_on_the_map_exist() -> None:
    rows = [line.split("|")[1:-1] for line in (ROOT / "docs/map.md").read_text().splitlines() if line.startswith("| ")]
    missing = []
    for _, rooms, _, tests in rows[2:]:
        for base, cell in ((ROOT / "src/plenum", rooms), (ROOT / "tests", tests)):
            path = base
            for name in re.findall(r"`([^`]+(?:/|\.py))`", cell):
                path = (base if "/" in name else path.parent) / name  # a bare name lies beside the one before it
                if not path.exists():
                    missing.append(name)
    assert missing == []
