import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from dashtray import environment


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        assert environment.create(tmp_path / ".env")
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_the_file_holds_what_the_site_needs(tmp_path: Path) -> None:
    environment.create(tmp_path / ".env")
    values = dotenv_values(tmp_path / ".env", interpolate=False)
    assert values["DEBUG"] == "true"
    assert len(bytes.fromhex(values["MASTER_ENCRYPTION_KEY"] or "")) == 32
    assert len(values["SECRET_KEY"] or "") >= 50
    assert len(values["DEMO_PASSWORD"] or "") >= 16


def test_two_files_share_no_secret(tmp_path: Path) -> None:
    for name in ("one", "two"):
        environment.create(tmp_path / name)
    one, two = (dotenv_values(tmp_path / name, interpolate=False) for name in ("one", "two"))
    assert [name for name in one if one[name] == two[name]] == ["DEBUG"]


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SECRET_KEY=mine")
    assert not environment.create(tmp_path / ".env")
    assert (tmp_path / ".env").read_text() == "SECRET_KEY=mine"


def test_a_real_variable_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "env").write_text("LOADED_ONE=file\nLOADED_TWO=a${HOME}$b\n")
    monkeypatch.setenv("ENV_FILE", str(tmp_path / "env"))
    monkeypatch.setenv("LOADED_ONE", "process")
    # Set and deleted, so that the variable is gone again after the test.
    monkeypatch.setenv("LOADED_TWO", "")
    monkeypatch.delenv("LOADED_TWO")
    environment.load()
    assert os.environ["LOADED_ONE"] == "process"
    assert os.environ["LOADED_TWO"] == "a${HOME}$b"


def test_an_empty_name_means_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV_FILE", "")
    assert environment.path() is None


def test_the_command_prints_no_secret(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    run = [sys.executable, "-m", "dashtray.environment"]
    environ = {"ENV_FILE": str(file), "PATH": os.environ["PATH"]}
    first = subprocess.run(run, env=environ, capture_output=True, text=True, check=True)
    values = dotenv_values(file, interpolate=False)
    assert first.stdout.startswith("Wrote .env")
    assert not [
        name
        for name, value in values.items()
        if name != "DEBUG" and value and value in first.stdout + first.stderr
    ]
    second = subprocess.run(run, env=environ, capture_output=True, text=True, check=True)
    assert second.stdout == ""
    assert dotenv_values(file, interpolate=False) == values
