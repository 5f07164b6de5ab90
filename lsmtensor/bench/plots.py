"""Figures from records, by matplotlib, as bytes; they only read what was measured."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import UnavailableError
from .charts import COLOURS, Chart

KERNELS = {"cython": "#0b6e4f", "numba": "#c8553d", "numpy": "#6c757d"}
MARKERS = {"flat": "s", "hnsw": "o"}


def pyplot() -> Any:
    """matplotlib.pyplot without a display, or `UnavailableError` naming the extra."""
    try:
        import matplotlib
    except ImportError as why:
        raise UnavailableError(f"plots need matplotlib ({why}); install it with: pip install 'lsmtensor[bench]'") from why
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25})
    return plt


def png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot().close(figure)
    return out.getvalue()


def main_job(facts: dict[str, Any]) -> Any:
    """The main job in four panels."""
    plt = pyplot()
    figure, panels = plt.subplots(2, 2, figsize=(10.5, 7.2), constrained_layout=True)
    _search(panels[0, 0], facts["search"])
    reads = facts["read"]
    _latencies(
        panels[0, 1],
        {"commit of a batch": facts["ingest"]["commit_seconds"], "get": reads["get_seconds"], "get, absent": reads["get_absent_seconds"]},
    )
    _kills(panels[1, 0], facts["kills"])
    _bytes(panels[1, 1], facts)
    return figure


def _search(axes: Any, entries: list[dict[str, Any]]) -> None:
    for kernel in dict.fromkeys(e["kernel"] for e in entries):
        for index in dict.fromkeys(e["index"] for e in entries):
            line = [e for e in entries if e["kernel"] == kernel and e["index"] == index]
            style = MARKERS.get(index, "^") + "-"
            recalls, rates = [e["recall"] for e in line], [e["qps"] for e in line]
            axes.plot(recalls, rates, style, color=KERNELS.get(kernel), label=f"{index}, {kernel}")
    axes.set(xlabel="recall@10", ylabel="queries a second", yscale="log", title="Search through the database, one query at a time")
    axes.legend(fontsize=7)


def _latencies(axes: Any, series: dict[str, list[float]]) -> None:
    for name, seconds in series.items():
        values = np.sort(np.asarray(seconds)) * 1e6
        axes.plot(values, np.arange(1, len(values) + 1) / len(values), drawstyle="steps-post", label=name)
    axes.set(xlabel="microseconds", ylabel="share at most as slow", xscale="log", title="Latency")
    axes.legend(fontsize=7, loc="lower center")


def _kills(axes: Any, kills: dict[str, Any]) -> None:
    rounds = kills["rounds"]
    at = np.arange(len(rounds))
    for offset, (key, colour) in enumerate([("acknowledged", "#3a5ba0"), ("recovered", "#0b6e4f"), ("lost", "#c8553d")]):
        bars = axes.bar(at + (offset - 1) * 0.27, [r[key] for r in rounds], 0.25, color=colour, label=key)
        axes.bar_label(bars, fontsize=7)
    axes.set_xticks(at, [f"kill {n + 1}" for n in at])
    axes.set(ylabel="commits so far", title="Writers killed by SIGKILL")
    axes.legend(fontsize=7, loc="upper left")


def _bytes(axes: Any, facts: dict[str, Any]) -> None:
    labels = ["given", *facts["ingest"]["written"]]
    values = [facts["ingest"]["bytes"], *facts["ingest"]["written"].values()]
    shown = [(label, v / 1e6) for label, v in zip(labels, values, strict=True) if v >= 0.005 * max(values)]
    bars = axes.barh([s[0] for s in shown], [s[1] for s in shown], color=["#3a5ba0"] + ["#9fb3c8"] * (len(shown) - 1))
    axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="MB", title=f"Bytes written by ingest and compaction: {facts['ingest']['write_amplification']:.2f} x given")


def drawn(charts: Sequence[Chart]) -> Any:
    """Charts below each other, two a line."""
    plt = pyplot()
    lines = -(-len(charts) // 2)
    tall = [max(3.2, 0.8 + 0.24 * max((len(c.rows) for c in charts[2 * i : 2 * i + 2]), default=0)) for i in range(lines)]
    figure, panels = plt.subplots(lines, 2, figsize=(12, sum(tall)), constrained_layout=True, squeeze=False, height_ratios=tall)
    for panel, chart in zip(panels.flat, charts, strict=False):
        for number, s in enumerate(chart.series):
            style = "o-" if s.line else "o"
            panel.plot([p[0] for p in s.points], [p[1] for p in s.points], style, ms=3.5, alpha=0.8, color=COLOURS[number % len(COLOURS)], label=s.name)
        if chart.rows:
            panel.set_yticks(range(len(chart.rows)), chart.rows, fontsize=7)
            panel.invert_yaxis()
        panel.set(xlabel=chart.x, ylabel=chart.y, title=chart.title, xscale="log" if chart.log_x else "linear")
        if chart.log_y:
            panel.set_yscale("log")
        if len(chart.series) > 1:
            panel.legend(fontsize=6)
    for spare in list(panels.flat)[len(charts) :]:
        spare.set_visible(False)
    return figure


def pdf(figures: Iterable[Any]) -> bytes:
    """A page for each figure."""
    from matplotlib.backends.backend_pdf import PdfPages

    out = io.BytesIO()
    with PdfPages(out, metadata={"CreationDate": None}) as pages:
        for figure in figures:
            pages.savefig(figure, bbox_inches="tight")
            pyplot().close(figure)
    return out.getvalue()
