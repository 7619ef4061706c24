"""A chart of a metric as SVG, made on the server: a page with it needs no script."""

from collections.abc import Sequence
from datetime import datetime

from django.utils.formats import date_format, number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import ngettext

WIDTH, HEIGHT, MARGIN = 640, 120, 4

#: A moment, and the value then.
Point = tuple[datetime, float]


def chart(title: str, points: Sequence[Point]) -> SafeString:
    """Draw points, which are in the order of time, as a line.

    Args:
        title: the metric.
        points: at least one.
    """
    values = [value for _, value in points]
    (first, _), (last, latest) = points[0], points[-1]
    low, high = min(values), max(values)
    counted = ngettext("%d value", "%d values", len(points)) % len(points)
    return format_html(
        '<figure class="metric-chart"><figcaption><strong>{}</strong> {}</figcaption>'
        '<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
        '<rect width="100%" height="100%" fill="none" stroke="currentColor" opacity="0.2"/>'
        "{}</svg><small>{} &ndash; {}, {} &ndash; {}</small></figure>",
        title,
        _number(latest),
        WIDTH,
        HEIGHT,
        WIDTH,
        HEIGHT,
        f"{title}: {counted} from {_number(low)} to {_number(high)}",
        _line(points, low, high),
        date_format(first, "SHORT_DATETIME_FORMAT"),
        date_format(last, "SHORT_DATETIME_FORMAT"),
        _number(low),
        _number(high),
    )


def _line(points: Sequence[Point], low: float, high: float) -> SafeString:
    start = points[0][0]
    seconds = (points[-1][0] - start).total_seconds()
    places = [
        (
            _scaled((at - start).total_seconds(), seconds, WIDTH),
            HEIGHT - _scaled(value - low, high - low, HEIGHT),
        )
        for at, value in points
    ]
    path = format_html_join(" ", "{},{}", ((f"{x:.1f}", f"{y:.1f}") for x, y in places))
    (start_x, _), (x, y) = places[0], places[-1]
    return format_html(
        '<polygon points="{},{} {} {},{}" fill="currentColor" opacity="0.12"/>'
        '<polyline points="{}" fill="none" stroke="currentColor" stroke-width="2"/>'
        '<circle cx="{}" cy="{}" r="3" fill="currentColor"/>',
        *(f"{start_x:.1f}", HEIGHT - MARGIN, path, f"{x:.1f}", HEIGHT - MARGIN),
        path,
        f"{x:.1f}",
        f"{y:.1f}",
    )


def _scaled(part: float, whole: float, length: int) -> float:
    inner = length - 2 * MARGIN
    return MARGIN + (inner * part / whole if whole else inner / 2)


def _number(value: float) -> str:
    return number_format(f"{value:.6g}") if "e" not in f"{value:.6g}" else f"{value:.6g}"
