"""The pages on fuzzing, mutants and concurrency name what is there; CI runs each in short."""

import re

import pytest

from tests.docs.pages import ROOT


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["fuzzing.md", "mutation.md", "concurrency.md"])
def test_commands_tests_and_folders_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([a-z]+)$", page(name), re.MULTILINE)
    assert targets
    for target in targets:
        assert f"\n{target}:" in makefile
    for path in re.findall(r"`((?:tests|fuzz)/[\w/.]*)`", page(name)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("target", ["fuzz", "mutation", "services", "test"])
def test_ci_runs_a_short_form(target: str) -> None:
    assert re.search(rf" {target}$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)


def test_every_surviving_mutant_is_explained() -> None:
    told = re.search(r"(\d+) mutants, (\d+) killed. The\n(\d+) others", page("mutation.md"))
    assert told is not None
    total, killed, others = map(int, told.groups())
    assert total == killed + others
    rows = re.findall(r"^\| `[\w.]+` \| .* \| (.+) \|$", page("mutation.md"), re.MULTILINE)
    assert len(rows) > 30
    assert all(len(reason) > 15 for reason in rows)
