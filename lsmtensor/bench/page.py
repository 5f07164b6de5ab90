"""Reports: one HTML file that needs nothing beside it, Markdown tables, or figures as PDF or PNG."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..errors import InvalidArgumentError, UnavailableError
from . import charts, plots, words
from .pace import drift

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2833;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d5dbe1}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .9rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #eef1f4}
th{font-weight:600}img{max-width:100%}pre{background:#f4f6f8;padding:.8rem;overflow-x:auto}
.note{color:#5d6d7e;font-size:.9rem}
"""


def write(path: Path, records: Iterable[dict[str, Any]], example: str = "") -> None:
    """Write the report of ``records`` in the form that the ending of ``path`` says; the newest main job, then each workload by its newest runs."""
    made: dict[str, Callable[[], bytes]] = {
        ".html": lambda: html(list(records), example).encode(), ".md": lambda: markdown(list(records)).encode(),
        ".pdf": lambda: plots.pdf(figures(list(records))), ".png": lambda: plots.png(one_figure(list(records))),
    }  # fmt: skip
    if path.suffix not in made:
        raise InvalidArgumentError(f"a report as {path.suffix!r}; give a file that ends in {', '.join(made)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made[path.suffix]())


def runs(records: list[dict[str, Any]]) -> list[tuple[str, tuple[str, list[dict[str, Any]]]]]:
    """(title, (workload, records)) of each workload and settings: of a case that was measured again the newest."""
    found: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for r in records:
        if r["workload"] != "run":
            found.setdefault((r["workload"], r["config_hash"], str(r["dataset"])), {})[r["case"]] = r
    many = Counter(name for name, *_ in found)
    return [
        (name if many[name] == 1 else f"{name}: {_differs(next(iter(cases.values())))}", (name, list(cases.values())))
        for (name, *_), cases in sorted(found.items())
    ]


def _differs(record: dict[str, Any]) -> str:
    """The settings that are not the defaults, and the data."""
    base = _flat(RunConfig().to_dict())
    changed = [f"{name}={value}" for name, value in _flat(record["config"]).items() if name != "seed" and value != base.get(name)]
    return ", ".join([*changed, record["dataset"]["name"]])


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    groups = {name: value if isinstance(value, dict) else {"": value} for name, value in settings.items()}
    return {f"{group}.{name}".rstrip("."): value for group, inner in groups.items() for name, value in inner.items()}


def figures(records: list[dict[str, Any]]) -> list[Any]:
    """A figure of matplotlib for each run that has something to draw, and for the newest main job."""
    jobs = [r for r in records if r["workload"] == "run"]
    return [plots.main_job(r["facts"]) for r in jobs[-1:]] + [plots.drawn(made) for _, mine in runs(records) if (made := charts.of(*mine))]


def one_figure(records: list[dict[str, Any]]) -> Any:
    """All charts in one; the main job where there is nothing else."""
    every = [c for _, mine in runs(records) for c in charts.of(*mine)]
    return plots.drawn(every) if every else next(iter(figures(records)))


def html(records: list[dict[str, Any]], example: str = "") -> str:
    parts: list[str] = []
    jobs = [r for r in records if r["workload"] == "run"]
    if jobs:
        parts += _main_job(jobs[-1], example)
    for title, (name, mine) in runs(records):
        parts += _workload(title, name, mine)
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>lsmtensor report</title><style>{STYLE}{charts.STYLE}</style>"
    return head + "\n".join(parts) + f"<script>{charts.SCRIPT}</script></html>\n"


def markdown(records: list[dict[str, Any]]) -> str:
    """The tables, for a paper or a README."""
    parts = []
    for title, (_, mine) in runs(records):
        lines = [("case", "measure", "median", "quartiles", "n"), ("---",) * 5, *words.bench(mine)]
        parts += [f"## {title}", "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines), _told(mine[0])]
    return "\n\n".join(parts) + "\n"


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
    return [*parts, f"<p class=note>{escape(_told(record))}</p>"]


def _workload(title: str, name: str, records: list[dict[str, Any]]) -> list[str]:
    first = records[0]
    paces = [p for r in records[:1] for p in r.get("pace_ms", ())]
    notes = [f"{first.get('rounds')} alternations after {first.get('warmup')} warm-up; quartiles show the spread. Click a name to hide it, hover for values."]
    notes += [f"{told}." for told in [drift(paces)] if told]
    notes += ["Broken off: fewer rounds than were asked for."] * bool(first.get("interrupted"))
    return [
        f"<h1>bench {escape(title)}</h1>", *(f"<p class=note>{escape(note)}</p>" for note in notes), *map(charts.svg, charts.of(name, records)),
        _table(words.BENCH_HEAD, words.bench(records)), f"<p class=note>{escape(_told(first))}</p>",
    ]  # fmt: skip


def _told(record: dict[str, Any]) -> str:
    """How figures came about, in a sentence."""
    code, machine = record["code"], record["machine"]
    commit = (code["commit"] or "no commit")[:12] + (" with changes" if code["dirty"] else "")
    packages = ", ".join(f"{n} {v}" for n, v in record["packages"].items())
    return (
        f"{record['started']}; lsmtensor {code['version']} ({commit}); {machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}; {packages}; data {record['dataset']['name']} sha256 {record['dataset']['sha256'][:16]}…; "
        f"settings {record['config_hash']}; seed {record['seed']}"
    )


def _figure(draw: Any, alt: str) -> str:
    try:
        figure = draw()
    except UnavailableError as why:
        return f"<p class=note>{escape(str(why))}</p>"
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(plots.png(figure)).decode()}">'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "<tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"
