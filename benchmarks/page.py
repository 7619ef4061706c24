"""Write the figures of the last full run into the documentation: ``python -m benchmarks.page``."""

import json
import re
import shutil
from pathlib import Path

from benchmarks import report

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"


def main() -> None:
    """Replace what stands between the marks of each table, and the chart."""
    result = json.loads((RESULTS / "full.json").read_text(encoding="utf-8"))
    tables = {"values": report.markdown(result["values"]), "machine": _machine(result)}
    for part in ("keys", "rest"):
        if part in result:
            tables[part] = report.markdown(result[part])
    for database, figures in result["databases"].items():
        for kind, measured in figures.items():
            if kind == "rotation":
                tables[f"{database} {kind}"] = report.rates(measured)
            elif kind == "rotation from v1":
                tables[f"{database} {kind}"] = report.busy(measured)
            else:
                tables[f"{database} {kind}"] = report.markdown(measured)
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = re.sub(
            rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)",
            lambda found, table=table: f"{found[1]}{table}\n{found[2]}",
            text,
            flags=re.DOTALL,
        )
    PAGE.write_text(text, encoding="utf-8")
    chart = RESULTS / "full.svg"
    if chart.exists():
        shutil.copyfile(chart, ROOT / "docs" / "pictures" / "performance.svg")


def _machine(result: dict[str, dict[str, object]]) -> str:
    machine = result["machine"]
    versions = ", ".join(
        f"{name} {machine[key]}"
        for name, key in (
            ("Python", "python"),
            ("Django", "Django"),
            ("cryptography", "cryptography"),
            ("psycopg", "psycopg"),
        )
    )
    return (
        f"{versions}; {machine['cores']} cores, load average {machine['load at the start'][0]:.1f}."
    )


if __name__ == "__main__":
    main()
