"""Every fenced block and every command of the documentation is run, by CI or by a test named below.

A new one fails here until something runs it.
"""

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from tests.docs.pages import PAGES, ROOT, Block, blocks
from tests.docs.test_commands import SHORT

#: The test that runs all blocks of one language on a page.
RUN = {
    ("README.md", "python"): ("test_readme", "test_the_example_and_the_rotation_work_as_written"),
    ("docs/orm-paths.md", "python"): ("test_guides", "test_the_examples"),
    ("docs/moving-over.md", "python"): ("test_moving_over", "test_every_block_is_walked"),
    ("docs/moving-over.md", "sh"): ("test_moving_over", "test_every_block_is_walked"),
    ("docs/blind-indexes.md", "python"): ("test_guides", "test_the_examples"),
    ("docs/deployment.md", "bash"): ("test_deployment", "test_the_guide_is_walked_through"),
    ("docs/rest-api.md", "sh"): ("test_rest_api", "test_the_requests_are_answered_as_told"),
    ("docs/rest-api.md", "bash"): ("test_rest_api", "test_the_requests_are_answered_as_told"),
    ("docs/rest-api.md", "json"): ("test_rest_api", "test_the_requests_are_answered_as_told"),
    ("docs/api.md", "{eval-rst}"): ("test_api", "test_what_is_public_is_there_and_described"),
    ("docs/token-formats.md", ""): ("test_token_formats", "test_the_text_gives_the_vectors"),
}

#: Commands that CI does not run as they stand, and the tests that do.
RUN_COMMANDS = {
    "make run": ("test_make_run", "test_make_run_starts_a_site_with_demo_data"),
    "make format": ("test_commands", "test_make_format_mends_what_it_can"),
    ".venv/bin/python -m benchmarks.page": (
        "test_commands",
        "test_the_figures_are_written_into_the_page",
    ),
    ".venv/bin/python -m pip wheel --no-deps --wheel-dir dist .": (
        "test_commands",
        "test_the_wheel_is_built_and_installed",
    ),
    "python -m pip install dist/dashtray-0.1.0-py3-none-any.whl": (
        "test_commands",
        "test_the_wheel_is_built_and_installed",
    ),
    ".venv/bin/python -m pytest tests/encryption/core/test_tokens.py -x": (
        "test_commands",
        "test_a_part_of_the_suite_can_be_run",
    ),
    **dict.fromkeys(SHORT, ("test_commands", "test_what_measures_runs_with_small_numbers")),
}

CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
BLOCKS = [block for page in PAGES for block in blocks(page)]


def place(block: Block) -> str:
    return str(block.page.relative_to(ROOT))


def commands(block: Block) -> list[str]:
    """The lines of a block of commands, without what is said about them."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.strip()]


def written(page: Path) -> list[str]:
    """The commands between backticks in the text of a page, but for those of manage.py."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"`((?:[A-Z_]+=\S+ )*(?:make|bash|python|\.venv/bin/python)\s[^`]+)`", text)
    lines = (" ".join(line.split()) for line in found)
    return [line for line in lines if not line.startswith("python manage.py ")]


def made_by_ci() -> set[str]:
    """The targets that CI makes, and those that they need."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    needs = dict(re.findall(r"^([a-z-]+):([a-z -]*)", makefile, re.MULTILINE))
    made = {name for name in needs if re.search(rf"(\bmake|\bon \S+|-directory) {name}\b", CI)}
    return made | {need for name in made for need in needs[name].split()}


def is_run(line: str) -> bool:
    """Whether a test runs a line, or CI makes its target: with variables of its own, if any."""
    found = re.fullmatch(r"(?:[A-Z_]+=\S+ )*(make ([a-z-]+))(?: [A-Z]+=.*)?", line)
    if found is None:
        return line in RUN_COMMANDS or line == "bash .ci/run"
    return found[1] in RUN_COMMANDS or found[2] in made_by_ci()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_run(block: Block) -> None:
    if (place(block), block.language) in RUN:
        return
    assert block.language == "sh", f"{block}: no test runs it; add one, and name it in RUN"
    left = [line for line in commands(block) if not is_run(line)]
    assert not left, f"{block}: nothing runs {left}; add a test, and name it in RUN_COMMANDS"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_text_is_run(page: Path) -> None:
    """Those of `manage.py` are below."""
    left = [line for line in written(page) if not is_run(line)]
    assert not left, f"nothing runs {left}; add a test, and name it in RUN_COMMANDS"


@pytest.mark.parametrize("place_of", RUN, ids="-".join)
def test_the_tests_that_run_them_are_there(place_of: tuple[str, str]) -> None:
    if not (ROOT / place_of[0]).exists():
        pytest.skip("the page is not written yet")
    file, name = RUN[place_of]
    source = (Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8")
    assert f"def {name}" in source
    assert any((place(block), block.language) == place_of for block in BLOCKS)


def test_the_tests_that_run_commands_name_them() -> None:
    lines = {line for block in BLOCKS if block.language == "sh" for line in commands(block)}
    assert set(RUN_COMMANDS) <= lines | {line for page in PAGES for line in written(page)}
    for file, name in set(RUN_COMMANDS.values()):
        source = (Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in source


def test_a_command_that_nothing_runs_is_seen() -> None:
    assert is_run("PORT=8080 make test")
    assert is_run("make fuzz RUNS=20000")
    assert not is_run("make coffee")
    assert not is_run("python -m benchmarks.unknown")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_have_these_options(page: Path) -> None:
    """`python manage.py NAME --option` between backticks is what the command takes."""
    for line in re.findall(r"`python manage\.py ([^`]+)`", page.read_text(encoding="utf-8")):
        name, *arguments = shlex.split(line)
        command = load_command_class(get_commands()[name], name)
        parser = command.create_parser("manage.py", name)
        known = {option for action in parser._actions for option in action.option_strings}
        assert {word for word in arguments if word.startswith("--")} <= known, line
