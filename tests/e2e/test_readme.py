"""What the README and the map say is so: commands run, links and paths lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.clouds import until
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONSOLE = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
PLENUM = [command for command in CONSOLE if command.startswith("plenum ")]
OFFLINE = ("fleet", "place", "plan", "replay", "simulate", "schema")
LIVE = [command for command in PLENUM if command.split()[1] not in OFFLINE and "--fleet" not in command]
"""Commands that ask the cloud which `make up` brings up, in the order of the README."""
SLOW = [command for command in PLENUM if command.startswith(("plenum replay openb", "plenum replay philly"))]
WAITS = 1
"""Exit code of ``place`` where something waits, as it does in the example."""


def run(command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "plenum", *shlex.split(command)[1:]]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False, env=env)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which what `make up` brings up has run its first jobs, on a free port."""
    folder = tmp_path_factory.mktemp("home")
    env = {**os.environ, "PLENUM_HOME": str(folder / "data"), "XDG_CONFIG_HOME": str(folder)}
    env = {name: value for name, value in env.items() if name not in ("PLENUM_SERVER", "PLENUM_TOKEN", "PLENUM_CA")}
    target = re.search(r"^up:.*\n\t@\$\(BIN\)/(plenum .*) \$\(ARGS\)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert target
    words = [sys.executable, "-m", *shlex.split(target[1]), "--port", "0"]
    up = subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert up.stdout is not None
        told = []
        for line in up.stdout:
            told.append(line)
            if "Try next" in line:
                break
        assert up.poll() is None, "".join(told)
        threading.Thread(target=up.stdout.read, daemon=True).start()  # whatever else it tells must not fill the pipe
        yield env
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(PATIENCE_S)
        up.stdout.close()


def test_the_readme_shows_every_main_command() -> None:
    shown = {command.split()[1] for command in PLENUM}
    assert {"fleet", "place", "explain", "replay", "get", "apply", "describe", "logs", "top", "why"} <= shown


@pytest.mark.parametrize("command", [command for command in PLENUM if command not in (*SLOW, *LIVE)])
def test_quick_commands_of_the_readme_work(command: str) -> None:
    done = run(command)
    expected = WAITS if command.startswith("plenum place") or "--hardware L40S --gpus 1" in command else 0
    assert done.returncode == expected, done.stderr
    assert done.stdout.strip()


def test_commands_of_the_readme_work_on_the_cloud_of_make_up(home: dict[str, str], tmp_path: Path) -> None:
    for command in LIVE:
        done = run(command.replace("today.plenum", str(tmp_path / "today.plenum")), home)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert done.stdout.strip(), command


def test_the_client_of_the_readme_works(home: dict[str, str]) -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example
    run("plenum serve smollm2", home)
    key = json.loads(run("plenum key create --output json", home).stdout)["secret"]
    address = json.loads((Path(home["PLENUM_HOME"]) / "gateway" / "address.json").read_bytes())["url"]
    headers = {"Authorization": f"Bearer {key}"}
    until(lambda: httpx.get(f"{address}/v1/models", headers=headers).status_code == 200, "the gateway to know the key")
    program = example[1].replace("http://127.0.0.1:8080", address).replace("plk_…", key)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 3


@pytest.mark.parametrize("command", SLOW)
def test_options_of_slow_commands_exist(command: str) -> None:
    offered = run("plenum replay --help").stdout
    for option in re.findall(r"--[a-z-]+", command):
        assert option in offered


def test_the_explanation_shown_is_the_one_given() -> None:
    shown = re.search(r"```text\n(.*?)\n```", README, re.DOTALL)
    assert shown
    command = next(c for c in PLENUM if c.startswith("plenum explain") and "--fleet" in c)
    assert run(command).stdout.splitlines()[0] == shown[1]


@pytest.mark.parametrize("target", [command for command in CONSOLE if command.startswith("make ")])
def test_make_targets_of_the_readme_exist(target: str) -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"  {target} " in listed


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/map.md", "docs/results.md"])
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
