"""Build the sdist and the wheel, check them, and use the wheel alone.

    python .ci/release.py PYTHON...

The wheel is built from the tree and from the sdist, which have to give the same files. Each PYTHON
then installs it into a fresh environment, as `.ci/standalone.py` tells.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: object) -> None:
    subprocess.run([str(argument) for argument in arguments], cwd=ROOT, check=True)


def build(folder: Path, *options: str) -> Path:
    """Build into a folder; the wheel."""
    run(sys.executable, "-m", "build", *options, "--outdir", folder, ".")
    (wheel,) = folder.glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def main(pythons: list[str]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder / "both")  # the sdist, and the wheel out of it
        (sdist,) = (folder / "both").glob("*.tar.gz")
        files = contents(wheel)
        if files != contents(build(folder / "wheel", "--wheel")):
            raise SystemExit("The sdist gives another wheel than the tree.")
        if "encryption/py.typed" not in files:
            raise SystemExit("The wheel has no encryption/py.typed.")
        run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
        run(Path(sys.executable).parent / "check-wheel-contents", wheel)
        print(f"{sdist.name}: {sdist.stat().st_size:,} bytes, {wheel.name}: {len(files)} files")
        for python in pythons:
            run(python, ".ci/standalone.py", wheel)
            print(f"{python}: installed alone, and used as documented")


if __name__ == "__main__":
    main(sys.argv[1:])
