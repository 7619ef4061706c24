"""Documented commands that CI does not run as they stand, each in a copy of the checkout."""

import json
import subprocess
import venv
from pathlib import Path

import pytest

from tests.docs.checkout import Checkout
from tests.docs.pages import blocks

SPOILT = "import sys\nimport os\ndef version( ):\n    return sys.version_info [ : 2 ]\n"
MENDED = "import sys\n\n\ndef version():\n    return sys.version_info[:2]\n"

TIMING = {
    "encrypt 20 B": {
        "least": {"microseconds": 1.25, "ratio": 1.0},
        "dashtray": {"microseconds": 2.5, "ratio": 2.0},
    }
}
RESULT = {
    "machine": {
        "python": "3.99.1",
        "cores": 64,
        "load at the start": [0.25, 0, 0],
        "Django": "5.2",
        "cryptography": "50",
        "psycopg": "3",
    },
    "values": TIMING,
    "databases": {
        "SQLite": {
            "text": TIMING,
            "rotation": {
                "rotate 8, v2 to v2": {
                    "bare limit": {"microseconds": 5.0, "ratio": 1.0},
                    "dashtray": {"microseconds": 8.0, "ratio": 1.6},
                }
            },
            "rotation from v1": {
                "1": {"seconds": 5.0, "processor seconds per second": 1.5, "cores": 2},
                "2": {
                    "seconds": 3.25,
                    "processor seconds per second": 1.875,
                    "of the machine": 1.9375,
                    "cores": 2,
                },
            },
        }
    },
}
ROWS = "--rows 200 --tenants 5 --repetitions 1"
#: Commands that measure, what makes them short, and a word of what they print.
SHORT = {
    "python -m benchmarks --only lookups": ("--quick", "PostgreSQL: lookups"),
    "python -m benchmarks.memory_of_rotation": ("--rows 200 400", "difference"),
    "python -m benchmarks.rotation_speed postgresql": (ROWS, "bare limit"),
    "python -m benchmarks.rotation_speed sqlite": (ROWS, "bare limit"),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_make_format_mends_what_it_can(checkout: Checkout) -> None:
    before = checkout.files()
    (checkout.folder / "projects" / "spoilt.py").write_text(SPOILT)
    checkout.run("make format")
    after = checkout.files()
    assert after.pop("projects/spoilt.py") == MENDED.encode()
    assert {name: text for name, text in after.items() if ".ruff_cache" not in name} == before


def test_a_part_of_the_suite_can_be_run(checkout: Checkout) -> None:
    said = checkout.run(".venv/bin/python -m pytest tests/encryption/core/test_tokens.py -x")
    assert " passed" in said


def test_the_figures_are_written_into_the_page(checkout: Checkout) -> None:
    results, page = checkout.folder / "benchmarks/results", checkout.folder / "docs/performance.md"
    (results / "full.json").write_text(json.dumps(RESULT))
    (results / "full.svg").write_text("<svg/>")
    before = checkout.files()
    checkout.run(".venv/bin/python -m benchmarks.page")
    after = checkout.files()
    assert after.pop("docs/pictures/performance.svg") == b"<svg/>"
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"docs/performance.md"}
    text = page.read_text(encoding="utf-8")
    assert "Python 3.99.1, Django 5.2, cryptography 50, psycopg 3; 64 cores" in text
    table = "|  | encrypt 20 B |\n| --- | ---: |\n| least | 1.2 us |\n| dashtray | 2.00 |\n"
    for mark in ("values", "SQLite text"):
        assert f"<!-- {mark} -->\n{table}<!-- end -->" in text
    assert text.count("dashtray | 2.00") == 2
    assert "| bare limit | 200,000 | 1.00 |\n| dashtray | 125,000 | 0.62 |\n<!-- end -->" in text
    busy = "| 1 | 5.0 | 1.50 of 2 |  |\n| 2 | 3.2 | 1.88 of 2 | 1.94 of 2 |\n<!-- end -->"
    assert busy in text


@pytest.mark.recipes
def test_the_wheel_is_built_and_installed(checkout: Checkout, tmp_path: Path) -> None:
    build, install = blocks("../README.md", "sh")[1].text.splitlines()
    checkout.run(build)
    venv.create(tmp_path / "theirs", with_pip=True)
    programs = tmp_path / "theirs" / "bin"
    checkout.run(install, programs)
    told = subprocess.run(
        [programs / "python", "-c", "import encryption; print(encryption.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(told.stdout.strip()).is_relative_to(tmp_path / "theirs")


@pytest.mark.services
@pytest.mark.parametrize("line", SHORT)
def test_what_measures_runs_with_small_numbers(checkout: Checkout, line: str) -> None:
    options, said = SHORT[line]
    assert said in checkout.run(f"{line} {options}")
