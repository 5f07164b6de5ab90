"""A report page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..errors import UnavailableError
from . import plots, words

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2833;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d5dbe1}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .9rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #eef1f4}
th{font-weight:600}img{max-width:100%}pre{background:#f4f6f8;padding:.8rem;overflow-x:auto}
.note{color:#5d6d7e;font-size:.9rem}
"""


def write(path: Path, records: Iterable[dict[str, Any]], example: str = "") -> None:
    """Write the page of ``records``; the newest main job, then each workload by its newest run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html(list(records), example), encoding="utf-8")


def html(records: list[dict[str, Any]], example: str = "") -> str:
    parts: list[str] = []
    jobs = [r for r in records if r["workload"] == "run"]
    if jobs:
        parts += _main_job(jobs[-1], example)
    for name in sorted({r["workload"] for r in records} - {"run"}):
        mine = [r for r in records if r["workload"] == name]
        newest = max(r["started"] for r in mine)
        parts += _workload(name, [r for r in mine if r["started"] == newest])
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>lsmtensor report</title><style>{STYLE}</style>" + "\n".join(parts) + "</html>\n"


def _main_job(record: dict[str, Any], example: str) -> list[str]:
    facts = record["facts"]
    parts = [
        "<h1>lsmtensor: the main job</h1>",
        f"<p>{record['dataset']['rows']:,} Debian packages with texts, scalars, dependencies and {record['dataset']['dim']}-dimensional embeddings; "
        f"everything below was measured in {facts['seconds']:.1f} s on this machine.</p>",
        _figure(lambda: plots.main_job(facts), "The main job in four panels"),
        "<h2>Search: every index with every kernel</h2>",
        _table(words.SEARCH_HEAD, words.search(facts["search"])),
        "<p class=note>QPS: queries a second, one at a time from Python; batch QPS: all of them in one call. “First call” includes what a backend does once: numba compiles, or loads what it compiled before. "
        "numpy is the definition of each kernel and sees few queries.</p>",
    ]
    for heading, rows in words.summary(facts):
        parts += [f"<h2>{escape(heading)}</h2>", _table((), rows)]
    if example:
        parts += ["<h2>Open it</h2>", f"<pre>{escape(example)}</pre>"]
    return [*parts, _provenance(record)]


def _workload(name: str, records: list[dict[str, Any]]) -> list[str]:
    first = records[0]
    return [
        f"<h1>bench {escape(name)}</h1>",
        f"<p class=note>{first.get('rounds')} alternations after {first.get('warmup')} warm-up; quartiles show the spread.</p>",
        _figure(lambda: plots.workload(name, [r for r in records if r["who"] != "ratio"]), f"{name}"),
        _table(words.BENCH_HEAD, words.bench(records)),
        _provenance(first),
    ]


def _provenance(record: dict[str, Any]) -> str:
    code, machine = record["code"], record["machine"]
    commit = (code["commit"] or "no commit")[:12] + (" with changes" if code["dirty"] else "")
    packages = ", ".join(f"{n} {v}" for n, v in record["packages"].items())
    text = (
        f"{record['started']}; lsmtensor {code['version']} ({commit}); {machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}; {packages}; data {record['dataset']['name']} sha256 {record['dataset']['sha256'][:16]}…; "
        f"settings {record['config_hash']}; seed {record['seed']}"
    )
    return f"<p class=note>{escape(text)}</p>"


def _figure(draw: Any, alt: str) -> str:
    try:
        figure = draw()
    except UnavailableError as why:
        return f"<p class=note>{escape(str(why))}</p>"
    if figure is None:
        return ""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(plots.png(figure)).decode()}">'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "<tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"
