"""Compare the mutants that survived with those that docs/mutation.md explains.

    python .ci/mutants.py

Run it after `mutmut run`. Each survivor has to stand in the page, by its function and by the words
that were changed, with the reason why no test can tell; anything else fails.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "mutation.md"
MUTMUT = Path(sys.executable).with_name("mutmut")


def run(*arguments: str) -> str:
    """Return what a command of mutmut prints."""
    done = subprocess.run(
        [MUTMUT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def survivors() -> list[str]:
    """The names of the mutants that no test killed, or that no test meets."""
    found = re.findall(r"^ *(\S+): (?!killed)(\w[\w ]*)$", run("results"), re.MULTILINE)
    return [name for name, status in found if status != "not checked"]


def told(name: str) -> tuple[str, str, str]:
    """A mutant as the page has it: function, line before, line after."""
    diff = run("show", name).splitlines()
    before, after = (
        " ".join(line[1:].strip() for line in diff if re.match(rf"\{sign}(?!\{sign}\{sign})", line))
        for sign in "-+"
    )
    before, after = before.replace("|", r"\|"), after.replace("|", r"\|")  # cells of a table
    function = re.sub(r"__mutmut_\d+$", "", name).removeprefix("encryption.core.")
    function = function.replace("xǁ", "").replace("ǁ", ".").replace(".x_", ".")
    return function, before, after


def main() -> int:
    """Print every survivor that is not explained; their number is the exit status."""
    page = PAGE.read_text(encoding="utf-8")
    explained = set(
        re.findall(r"^\| `([\w.]+)` \| `` (.+?) `` \| `` (.+?) `` \|", page, re.MULTILINE)
    )
    unexplained = [one for one in map(told, survivors()) if one not in explained]
    for function, before, after in unexplained:
        sys.stdout.write(f"| `{function}` | `` {before} `` | `` {after} `` | ? |\n")
    return min(len(unexplained), 100)


if __name__ == "__main__":
    sys.exit(main())
