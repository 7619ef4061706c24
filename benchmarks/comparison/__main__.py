"""Ask every package every question, and write the answers into docs/comparison.md.

``--check`` writes nothing, and exits with 1 where an answer differs from the page.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.comparison import page
from benchmarks.comparison.install import install, interpreter, refusal
from benchmarks.comparison.keys import STEPS
from benchmarks.comparison.packages import OURS, PEERS, REFUSED, Package

ROOT = Path(__file__).resolve().parents[2]
PROCESS = "benchmarks.comparison.process"


def answers(package: Package) -> dict[str, str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{install(package)}"}
    found: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        for title in ("everything", *STEPS):
            done = subprocess.run(
                [interpreter(package.python), "-m", PROCESS, package.name, title, folder],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(f"{package.name}, {title}:\n{done.stderr}")
            found |= json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the page, write nothing")
    check = parser.parse_args().check
    found = {package.name: answers(package) for package in [OURS, *PEERS]}
    found[page.REFUSED] = {package.name: refusal(package) for package in REFUSED}
    if not check:
        page.write(found)
    elif found != page.load():
        raise SystemExit("the answers are not those of benchmarks/comparison/answers.json")


if __name__ == "__main__":
    main()
