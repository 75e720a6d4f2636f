import subprocess
import sys
import traceback

import pytest

from plenum.adapters.stores.faults import UrlError
from plenum.adapters.stores.opening import open_store
from plenum.model.errors import MissingExtraError, PlenumError


@pytest.mark.parametrize(
    "url", ["", "plenum.db", "mysql://root:hunter2@host/db", "sqlite://", "sqlite:///", "sqlite:///:memory:"]
)
def test_urls_that_name_nothing(url):
    with pytest.raises(UrlError) as refused:
        open_store(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=u&password=hunter2",
        "postgresql://u:hunter2%zz@127.0.0.1:1/db",
        "postgresql://u:x@127.0.0.1:1/db?hunter2=1",
    ],
)
def test_no_password_in_what_is_said(url):
    with pytest.raises(PlenumError) as refused:
        open_store(url)
    said = "".join(traceback.format_exception(refused.value))
    assert "hunter2" not in said.replace(url, "")


def test_without_psycopg(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"plenum-os\[postgres\]"):
        open_store("postgresql://localhost/db")


def test_nothing_is_loaded_before_it_is_needed(tmp_path):
    """Neither drivers nor migrations to import the store, and no driver of PostgreSQL to use SQLite."""
    code = """
import sys
import plenum.adapters.stores
from plenum.adapters.stores import backups, opening
loaded = {"psycopg", "alembic"} & set(sys.modules)
assert not loaded, loaded
opening.open_store(sys.argv[1]).close()
assert "psycopg" not in sys.modules
"""
    url = f"sqlite:///{tmp_path}/plenum.db"
    subprocess.run([sys.executable, "-c", code, url], check=True)
    second = code.replace("loaded =", "opening.open_store(sys.argv[1]).close()\nloaded =")
    subprocess.run([sys.executable, "-c", second, url], check=True)
