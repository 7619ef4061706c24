"""The figures as text and as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.timing import Timing


def heading(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def table(title: str, figures: Mapping[str, Mapping[str, Timing]]) -> str:
    """One line for each measure and package: microseconds of an operation, and the ratio."""
    lines = [f"\n{title}"]
    for measure, timings in figures.items():
        lines.append(f"  {measure}")
        lines += [
            f"    {name:36} {timing.microseconds:12,.2f} us {timing.ratio:9,.2f}"
            for name, timing in timings.items()
        ]
    return "\n".join(lines)


def plain(figures: Mapping[str, float]) -> str:
    """Figures that are no times of an operation."""
    return "  " + ", ".join(f"{name}: {value:,.2f}" for name, value in figures.items())


def save(path: Path, result: Mapping[str, Any]) -> None:
    text = json.dumps(result, indent=1, default=list)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def markdown(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table with a line for each package and a column for each measure, of ratios."""
    names = list(dict.fromkeys(name for timings in figures.values() for name in timings))
    rows = [["", *figures], ["---", *["---:"] * len(figures)]]
    for place, name in enumerate(names):
        cells = [_cell(timings.get(name), first=not place) for timings in figures.values()]
        rows.append([name, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def rates(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table of rows a second, and what part of the first line's they are."""
    rows = [["", "rows a second", "of the bare limit"], ["---", "---:", "---:"]]
    for timings in figures.values():
        for name, timing in timings.items():
            rate, part = 1e6 / timing["microseconds"], 1 / timing["ratio"]
            rows.append([name, f"{rate:,.0f}", f"{part:.2f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def busy(figures: Mapping[str, Mapping[str, float]]) -> str:
    """A table with a line for each number of processes: seconds, and how many cores were busy."""
    names = ["processes", "seconds", "cores busy", "with the server's and all else"]
    rows = [names, ["---:"] * len(names)]
    for count, found in figures.items():
        busy = [found["processor seconds per second"], found.get("of the machine")]
        cores = [f"{one:.2f} of {found['cores']:.0f}" if one is not None else "" for one in busy]
        rows.append([count, f"{found['seconds']:.1f}", *cores])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(timing: Mapping[str, float] | None, first: bool) -> str:
    if timing is None:
        return ""
    if first:
        return f"{timing['microseconds']:,.1f} us"
    ratio = timing["ratio"]
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"
