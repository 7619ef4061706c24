"""The chart: how many times a plain field each package costs, as an SVG of its own making."""

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _LABELS, _BAR, _GAP = 760, 230, 15, 5
#: Longer bars are cut here, and say their number all the same.
_MOST = 8.0
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2933}"
    ".title{font-weight:600;font-size:15px}.ours{fill:#1d6f5c}.theirs{fill:#a9b4bf}"
    ".plain{stroke:#5b6770;stroke-dasharray:3 3}.page{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#e4e9ee}.page{fill:#14191e}"
    ".ours{fill:#4cb496}.theirs{fill:#5d6872}}"
)


def draw(result: Mapping[str, Any]) -> str:
    """Draw the text measures of every database of a result."""
    lines: list[str] = []
    y = 28
    for database, figures in result["databases"].items():
        for measure, timings in figures["text"].items():
            if "tenants" in measure:
                continue
            lines.append(f'<text class="title" x="12" y="{y}">{database}: {escape(measure)}</text>')
            y += 12
            top = y
            for name, timing in timings.items():
                if name != "plain":
                    lines += _bar(y, name, timing["ratio"])
                    y += _BAR + _GAP
            one = _LABELS + (_WIDTH - _LABELS - 60) / _MOST
            lines.append(
                f'<line class="plain" x1="{one:.1f}" x2="{one:.1f}" y1="{top - 3}" y2="{y - 2}"/>'
            )
            y += 28
    lines.append(
        f'<text x="12" y="{y}">Times a plain field; the dashed line is 1. Less is better.</text>'
    )
    y += 18
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img" '
        f'aria-label="Cost of encrypted fields as a multiple of a plain field"><style>{_STYLE}'
        f'</style><rect class="page" width="{_WIDTH}" height="{y}"/>{"".join(lines)}</svg>\n'
    )


def _bar(y: int, name: str, ratio: float) -> list[str]:
    length = min(ratio, _MOST) * (_WIDTH - _LABELS - 60) / _MOST
    kind = "ours" if name == "dashtray" else "theirs"
    return [
        f'<text x="{_LABELS - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{kind}" x="{_LABELS}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="2"/>',
        f'<text x="{_LABELS + length + 6:.1f}" y="{y + 12}">{ratio:.2f}</text>',
    ]
