"""docs/comparison.md has the answers that were given, and ours are given by this code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.comparison.keys import STEPS
from benchmarks.comparison.packages import OURS, PEERS, REFUSED
from benchmarks.comparison.page import PAGE, REFUSED as REFUSED_TITLE, TABLES, load, written
from tests.docs.pages import ROOT

LINKS = sorted({place for questions in TABLES.values() for place in questions.values()})


def test_the_page_has_the_answers() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, load()) == page


def test_every_package_was_asked_every_question() -> None:
    asked = {question for questions in TABLES.values() for question in questions}
    answers = load()
    packages = {package.name for package in [OURS, *PEERS]}
    assert set(answers) == packages | {REFUSED_TITLE}
    for name in packages:
        assert set(answers[name]) == asked
    assert set(answers[REFUSED_TITLE]) == {package.name for package in REFUSED}


@pytest.mark.parametrize("place", LINKS, ids=["-".join(place) for place in LINKS])
def test_each_of_our_answers_has_its_test(place: tuple[str, str]) -> None:
    file, name = place
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE)


def test_our_answers_are_what_this_code_does(tmp_path: Path) -> None:
    def ask() -> Iterator[tuple[str, str]]:
        for title in ("everything", *STEPS):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.comparison.process", OURS.name, title, tmp_path],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if "KEY" not in name},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            yield from json.loads(done.stdout.splitlines()[-1]).items()

    assert dict(ask()) == load()[OURS.name]
