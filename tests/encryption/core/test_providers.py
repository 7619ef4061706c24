"""Where the master keys come from, and that nothing of them shows."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from encryption.core.providers import EnvironmentKeyProvider, MasterKeys

KEY = "a primary key that nobody must ever see"
OLD = "an older key that nobody must ever see"
OLDEST = "the oldest key that nobody must ever see"

NOTHING: Mapping[str, Any] = MappingProxyType({})


def keys(
    settings: Mapping[str, object] = NOTHING, environ: Mapping[str, str] = NOTHING
) -> MasterKeys:
    return EnvironmentKeyProvider(settings, environ).keys()


def from_environment(**environ: str) -> MasterKeys:
    return keys(environ={"MASTER_ENCRYPTION_KEY": KEY} | environ)


# -- the primary ------------------------------------------------------------------------------


def test_the_settings_come_first() -> None:
    environ = {"MASTER_ENCRYPTION_KEY": OLD, "MASTER_ENCRYPTION_KEY_FILE": "/nowhere"}
    assert keys({"MASTER_KEY": KEY}, environ).primary == KEY


@pytest.mark.parametrize("settings", [{}, {"MASTER_KEY": ""}, {"MASTER_KEY": None}])
def test_then_the_environment(settings: dict[str, object]) -> None:
    assert keys(settings, {"MASTER_ENCRYPTION_KEY": f" {KEY}\n"}).primary == KEY


@pytest.mark.parametrize(
    "content",
    [KEY, f"{KEY}\n", f"\r\n {KEY}\r\n", f"\N{BYTE ORDER MARK}{KEY}\n"],
    ids=["plain", "newline", "spaces", "byte order mark"],
)
def test_then_the_mounted_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content.encode())
    assert keys(environ={"MASTER_ENCRYPTION_KEY_FILE": f"{path}\n"}).primary == KEY
    environ = {"MASTER_ENCRYPTION_KEY_FILE": str(path), "MASTER_ENCRYPTION_KEY": " "}
    assert keys(environ=environ).primary == KEY


def test_a_key_file_is_read_as_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes("ключ".encode() * 10)
    assert keys(environ={"MASTER_ENCRYPTION_KEY_FILE": str(path)}).primary == "ключ" * 10


def test_it_is_read_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "key"
    provider = EnvironmentKeyProvider({}, {"MASTER_ENCRYPTION_KEY_FILE": str(path)})
    for content in (KEY, OLD):
        path.write_text(content)
        assert provider.keys().primary == content


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if "MASTER" in name]:
        monkeypatch.delenv(name)
    provider = EnvironmentKeyProvider({})
    monkeypatch.setenv("MASTER_ENCRYPTION_KEY", KEY)
    assert provider.keys() == MasterKeys(KEY, ())


@pytest.mark.parametrize("environ", [{}, {"MASTER_ENCRYPTION_KEY": " \n"}])
def test_no_key_at_all(environ: dict[str, str]) -> None:
    with pytest.raises(
        ValueError,
        match=r"^no master key: MASTER_ENCRYPTION_KEY .*ENCRYPTION\['MASTER_KEY'\]\) is not set$",
    ):
        keys(environ=environ)


def test_two_sources_for_one_key() -> None:
    with pytest.raises(ValueError, match=r"^both MASTER_.*_KEY and .*_FILE are set; unset one$"):
        from_environment(MASTER_ENCRYPTION_KEY_FILE="/nowhere")


def cannot_be_used(path: Path, reason: str) -> None:
    with pytest.raises(
        ValueError, match=f"^MASTER_ENCRYPTION_KEY_FILE cannot be used: {reason}$"
    ) as caught:
        keys(environ={"MASTER_ENCRYPTION_KEY_FILE": str(path)})
    # The context would hold the content of the file, or its path.
    assert caught.value.__context__ is None
    assert str(path) not in str(caught.value)


def test_a_key_file_that_cannot_be_used(tmp_path: Path) -> None:
    cannot_be_used(tmp_path / "missing", "No such file or directory")
    cannot_be_used(tmp_path, "Is a directory")
    path = tmp_path / "key"
    path.write_bytes(KEY.encode() + b"\xff")
    cannot_be_used(path, "it is not UTF-8 text")
    path.write_text(" \n")
    cannot_be_used(path, "it is empty")


def test_an_unreadable_file_without_a_reason_names_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> str:
        raise TimeoutError

    monkeypatch.setattr(Path, "read_text", fails)
    cannot_be_used(tmp_path / "key", "TimeoutError")


# -- the fallbacks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("", ()),
        (" , \n,", ()),
        (OLD, (OLD,)),
        (f"{OLD},{OLDEST}", (OLD, OLDEST)),
        (f"{OLD}\n{OLDEST}\n", (OLD, OLDEST)),
        (f" {OLD} ,\r\n {OLDEST},", (OLD, OLDEST)),
    ],
)
def test_fallbacks_are_separated_by_commas_or_newlines(
    listed: str, expected: tuple[str, ...]
) -> None:
    assert from_environment(MASTER_ENCRYPTION_KEY_FALLBACKS=listed).fallbacks == expected


def test_the_old_master_key_is_a_fallback() -> None:
    assert from_environment(OLD_MASTER_KEY=f" {OLD}\n").fallbacks == (OLD,)
    both = from_environment(MASTER_ENCRYPTION_KEY_FALLBACKS=OLD, OLD_MASTER_KEY=OLDEST)
    assert both.fallbacks == (OLD, OLDEST)


def test_the_old_master_key_may_hold_a_comma() -> None:
    assert from_environment(OLD_MASTER_KEY=f"{OLD},{OLDEST}").fallbacks == (f"{OLD},{OLDEST}",)


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_fallbacks_of_the_settings(kind: Callable[[list[str]], object]) -> None:
    environ = {"OLD_MASTER_KEY": "not looked at", "MASTER_ENCRYPTION_KEY_FALLBACKS": "neither"}
    settings = {"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": kind([OLD, OLDEST])}
    assert keys(settings, environ).fallbacks == (OLD, OLDEST)


def test_no_fallbacks_in_the_settings() -> None:
    environ = {"OLD_MASTER_KEY": OLD}
    assert keys({"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": []}, environ).fallbacks == ()
    assert keys({"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": None}, environ).fallbacks == (OLD,)


# -- wrong types ------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "kind"), [(KEY.encode(), "bytes"), ([KEY], "list"), (7, "int")])
def test_a_key_is_text(value: object, kind: str) -> None:
    with pytest.raises(ValueError, match=f"^MASTER_KEY is text, not {kind}$"):
        keys({"MASTER_KEY": value})


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        (OLD, "str"),
        (7, "int"),
        (OLD.encode(), "int"),
        ([OLD.encode()], "bytes"),
        ([OLD, None], "NoneType, str"),
    ],
)
def test_fallbacks_are_a_list_of_texts(value: object, kinds: str) -> None:
    with pytest.raises(
        ValueError, match=f"^MASTER_KEY_FALLBACKS is a list of texts, not of {kinds}$"
    ):
        keys({"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": value})


# -- what shows -------------------------------------------------------------------------------


def test_no_repr_holds_a_key() -> None:
    settings = {"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": [OLD]}
    provider = EnvironmentKeyProvider(settings, {})
    for thing in (provider, provider.keys()):
        for shown in (repr(thing), str(thing), f"{thing}"):
            assert "nobody must ever see" not in shown


def test_there_are_no_fallbacks_by_default() -> None:
    assert MasterKeys(KEY) == MasterKeys(KEY, ())
