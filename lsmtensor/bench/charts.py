"""Charts from records: what they show, once, and drawn twice: as SVG for a page, with values to hover over, and by matplotlib for a paper (`plots`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

from .words import CHECKED, number

COLOURS = ("#0b6e4f", "#c8553d", "#3a5ba0", "#8e5ea2", "#b8860b", "#6c757d", "#008b8b", "#a0522d", "#2f4f4f", "#cc6699")
EFFORT = re.compile(r" \w+=\d+$| ef=\d+ refine=\d+$")
"""What a case's name adds to that of its line."""
PERCENTILE = re.compile(r"^(.*?) ?p(\d+(?:\.\d+)?) (us|ms)$")
MOST = 12
"""Charts of a workload."""


@dataclass
class Series:
    """Points (x, y, what to say of them) under a name; ``line``: joined."""

    name: str
    points: list[tuple[float, float, str]]
    line: bool = True


@dataclass
class Chart:
    """``rows``: names along the y axis, for which y counts from 0 downwards."""

    title: str
    x: str
    y: str
    series: list[Series]
    log_x: bool = False
    log_y: bool = False
    rows: list[str] = field(default_factory=list)


def of(name: str, records: list[dict[str, Any]]) -> list[Chart]:
    """The charts of one run of a workload: recall against speed, curves over rows, latencies by percentile, or all samples of each measure."""
    mine = [r for r in records if r["who"] != "ratio"]
    if not mine:
        return []
    measures = list(dict.fromkeys(m for r in mine for m in r["summary"] if m not in CHECKED))
    charts: list[Chart] = []
    recalls = next((m for m in measures if m.startswith("recall")), None)
    speed = next((m for m in measures if m in ("qps", "queries/s")), None)
    sizes = {r.get("rows") for r in mine}
    if len(sizes) >= 3 and None not in sizes:
        return [_over_rows(m, mine) for m in measures][:MOST]
    if recalls and speed:
        charts.append(_recall(name, recalls, speed, [r for r in mine if recalls in r["summary"]]))
        others = [r for r in mine if speed in r["summary"] and recalls not in r["summary"]]
        charts += [_samples(speed, others)] if others else []
        measures = [m for m in measures if m not in (recalls, speed)]
    if any(PERCENTILE.match(m) for m in measures):
        charts.append(_latencies(name, mine))
        measures = [m for m in measures if not PERCENTILE.match(m)]
    return [*charts, *(_samples(m, [r for r in mine if m in r["samples"]]) for m in measures)][:MOST]


def _recall(name: str, recalls: str, speed: str, records: list[dict[str, Any]]) -> Chart:
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for r in records:
        at = r["summary"][recalls]["median"], r["summary"][speed]["median"]
        lines.setdefault(EFFORT.sub("", r["case"]), []).append((*at, f"{r['case']}: {recalls} {at[0]:.3f}, {number(at[1])} {speed}"))
    return Chart(name, recalls, speed, [Series(label, sorted(points)) for label, points in lines.items()], log_y=True)


def _over_rows(measure: str, records: list[dict[str, Any]]) -> Chart:
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for r in records:
        if measure in r["summary"]:
            label = r["case"].replace(f"{r['rows']:,} rows", "").strip(" ,") or "all"
            value = r["summary"][measure]["median"]
            lines.setdefault(label, []).append((r["rows"], value, f"{r['case']}: {number(value)}"))
    positive = all(p[1] > 0 for points in lines.values() for p in points)
    return Chart(measure, "rows", measure, [Series(label, sorted(points)) for label, points in lines.items()], log_x=True, log_y=positive)


def _latencies(name: str, records: list[dict[str, Any]]) -> Chart:
    """One in so many is slower than: the median is one in 2."""
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for r in records:
        for measure, s in r["summary"].items():
            if found := PERCENTILE.match(measure):
                what, percent, unit = found[1], float(found[2]), found[3]
                us = s["median"] * (1000 if unit == "ms" else 1)
                lines.setdefault(f"{r['case']}: {what}".rstrip(": "), []).append((1 / (1 - percent / 100), us, f"{r['case']}, {measure}: {number(s['median'])}"))
    series = [Series(label, sorted(points)) for label, points in lines.items()]
    return Chart(f"{name}: latencies", "one in so many is slower", "microseconds", series, log_x=True, log_y=True)


def _samples(measure: str, records: list[dict[str, Any]]) -> Chart:
    names = [r["case"] for r in records]
    series = []
    for who in dict.fromkeys(r["who"] for r in records):
        points = [(float(v), float(names.index(r["case"])), f"{r['case']}: {number(v)}") for r in records if r["who"] == who for v in r["samples"][measure]]
        series.append(Series(who, points, line=False))
    values = [p[0] for s in series for p in s.points]
    return Chart(measure, measure, "", series, log_x=min(values) > 0 and max(values) > 30 * min(values), rows=names)


# -- as SVG ----------------------------------------------------------------------------------------

WIDE, LEFT, TOP, RIGHT, BELOW = 760, 70, 30, 20, 46


def svg(chart: Chart) -> str:
    """One ``<figure>``: an SVG whose points say what they are, and a legend whose entries hide what they name when they are clicked."""
    left = min(300, 20 + max((7 * len(r) for r in chart.rows), default=LEFT - 20))
    high = TOP + BELOW + (22 * len(chart.rows) if chart.rows else 320)
    points = [p for s in chart.series for p in s.points]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    across, ticks_x = _axis(xs, chart.log_x, left, WIDE - RIGHT)
    if chart.rows:
        down: Callable[[float], float] = lambda row: TOP + 11 + 22 * row  # noqa: E731
        ticks_y = [(float(i), name) for i, name in enumerate(chart.rows)]
    else:
        down, ticks_y = _axis(ys, chart.log_y, high - BELOW, TOP)
    parts = [f'<svg viewBox="0 0 {WIDE} {high}" role="img" aria-label="{escape(chart.title)}">', f'<text class=title x={left} y=16>{escape(chart.title)}</text>']
    for value, label in ticks_x:
        x = across(value)
        parts.append(f'<line class=grid x1={x:.1f} x2={x:.1f} y1={TOP} y2={high - BELOW} /><text text-anchor=middle x={x:.1f} y={high - BELOW + 16}>{label}</text>')
    for value, label in ticks_y:
        y = down(value)
        parts.append(f'<line class=grid x1={left} x2={WIDE - RIGHT} y1={y:.1f} y2={y:.1f} /><text text-anchor=end x={left - 6} y={y + 4:.1f}>{escape(label)}</text>')
    parts.append(f'<text text-anchor=middle x={(left + WIDE) / 2:.0f} y={high - 8}>{escape(chart.x)}</text>')
    if chart.y:
        parts.append(f'<text text-anchor=middle transform="translate(13 {high / 2:.0f}) rotate(-90)">{escape(chart.y)}</text>')
    for number_, s in enumerate(chart.series):
        colour = COLOURS[number_ % len(COLOURS)]
        parts.append(f'<g class=series fill="{colour}" stroke="{colour}">')
        if s.line and len(s.points) > 1:
            parts.append('<polyline fill=none points="' + " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y, _ in s.points) + '" />')
        parts += [f'<circle cx={across(x):.1f} cy={down(y):.1f} r=3.5><title>{escape(say)}</title></circle>' for x, y, say in s.points]
        parts.append("</g>")
    legend = "".join(f'<button style="--c:{COLOURS[i % len(COLOURS)]}">{escape(s.name)}</button>' for i, s in enumerate(chart.series))
    return f"<figure>{''.join(parts)}</svg><div class=legend>{legend}</div></figure>"


def _axis(values: list[float], log: bool, start: float, stop: float) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """From a value to its place, and (value, label) of some round ones."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log:
        ticks = [m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in ((1, 2, 5) if high < 100 * low else (1,))]
        low, high = low / 1.1, high * 1.1
        scale: Callable[[float], float] = math.log
    else:
        low, high = (low, high) if low < high else (low - 0.5, high + 0.5)
        step = 10.0 ** math.floor(math.log10((high - low) / 4))
        step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 7)
        ticks = [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)]
        low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
        scale = float
    begin, whole = scale(low), scale(high) - scale(low)
    return lambda value: start + (stop - start) * (scale(value) - begin) / whole, [(t, number(t)) for t in ticks if low <= t <= high]


STYLE = """
figure{margin:1rem 0}svg{width:100%;max-width:60rem;font:12px system-ui,sans-serif}svg .title{font-weight:600;font-size:13px}svg .grid{stroke:#e6eaee}
.series polyline{stroke-width:1.6}.series circle{fill-opacity:.75;cursor:crosshair}.series circle:hover{r:6;fill-opacity:1}.off{display:none}
.legend button{border:0;background:none;font:12px system-ui,sans-serif;cursor:pointer;margin-right:.8rem;padding:0}.legend button::before{content:"";display:inline-block;
width:.8em;height:.8em;margin-right:.35em;background:var(--c)}.legend button.gone{opacity:.35}
"""
SCRIPT = """
for (const figure of document.querySelectorAll("figure")) {
  const groups = figure.querySelectorAll(".series");
  figure.querySelectorAll(".legend button").forEach((button, i) => {
    button.onclick = () => { groups[i].classList.toggle("off"); button.classList.toggle("gone"); };
    button.onmouseenter = () => groups.forEach((g, j) => { g.style.opacity = i === j ? 1 : 0.15; });
    button.onmouseleave = () => groups.forEach(g => { g.style.opacity = 1; });
  });
}
"""

