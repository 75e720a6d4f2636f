import pytest

from plenum.adapters.traces.folder import find_data
from plenum.model.errors import FileError


def test_what_is_named_goes_before_the_variable(tmp_path) -> None:
    (tmp_path / "named").mkdir()
    assert find_data(tmp_path / "named", {"PLENUM_DATA": str(tmp_path)}) == tmp_path / "named"
    assert find_data(None, {"PLENUM_DATA": str(tmp_path)}) == tmp_path


@pytest.mark.parametrize(("named", "source"), [(True, "--data"), (False, r"\$PLENUM_DATA")])
def test_a_folder_that_is_not_there_is_said_so(tmp_path, named, source) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(FileError, match=source):
        find_data(missing if named else None, {"PLENUM_DATA": str(missing)})


def test_the_default_lies_beside_the_working_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    found = find_data(None, {})
    assert found is not None
    assert found.resolve() == (tmp_path / "shared" / "data").resolve()
