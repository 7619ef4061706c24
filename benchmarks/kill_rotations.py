"""The long form of the tests that kill rotations: ``python -m benchmarks.kill_rotations``.

Runs ``tests/encryption/test_rotation_crashes.py`` on each database, with 20 kills for one, two and
four rotations at once, and prints what was counted. A test that finds a lost edit, an unreadable
value or a stale row fails, and so does this.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
TESTS = "tests/encryption/test_rotation_crashes.py"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_rotations")
    parser.add_argument("--kills", type=int, default=20, help="of each test (20)")
    parser.add_argument("--rows", type=int, default=4_000, help="of each of two tables (4,000)")
    parser.add_argument(
        "databases",
        nargs="*",
        default=["sqlite"],
        help="DATABASE_URLs; 'sqlite' is a file in WAL mode (the default)",
    )
    options = parser.parse_args()
    failed = False
    for url in options.databases:
        with TemporaryDirectory() as folder:
            report = Path(folder) / "report.jsonl"
            environment = {
                **os.environ,
                "DATABASE_URL": f"sqlite:///{folder}/kills.sqlite3" if url == "sqlite" else url,
                "ROTATION_KILLS": str(options.kills),
                "ROTATION_ROWS": str(options.rows),
                "ROTATION_REPORT": str(report),
            }
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", TESTS]
            command += ["-o", "faulthandler_timeout=3600"]  # a test takes minutes here
            failed |= bool(
                subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
            )
            for line in report.read_text().splitlines() if report.exists() else []:
                print(", ".join(f"{name} {count}" for name, count in json.loads(line).items()))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
