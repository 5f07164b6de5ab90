"""The table of peers as a page of docs/, from records."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from ..words import number, size
from .base import absent

FIGURES = re.compile(r"(<!-- figures: [^>]* -->).*?(<!-- end of figures -->)", re.DOTALL)
RECALLS = (0.90, 0.95, 0.99)
KINDS = {
    "keys": "## Small rows: 16-byte keys, 100-byte values",
    "tables": "## Rows of an id and 768 float32, in ten batches",
    "arrays": "## Large arrays",
}
OTHERS = {
    "filter": ("## Nearest vectors under filters that 0.1, 1, 10 and 50% of the rows match", ("qps", "recall@10")),
    "sparse": ("## Texts (BM25) and sparse vectors, top 10, one query at a time", ("queries/s", "recall@10")),
    "quant": ("## Codes, every row scanned", ("bytes of float32", "recall@10", "recall@10, 100 reranked", "train s", "coded rows/s", "scanned M codes/s")),
    "ingest": ("## Durable ingest, open and scan of 768 float32 a row, beside what disk and memory take", ("GB/s", "ms")),
    "point": ("## Small rows that are handed to the operating system and not synced", ("per second", "ms", "ms with first get")),
    "tensor-io": ("## A dict of large arrays, and slices", ("GB/s", "per second")),
}
"""Other workloads with peers: the head of their table, and the measures that it shows."""


def figures(found: Iterable[dict[str, Any]]) -> str:
    """Markdown tables of ``bench peers``: the newest run over each data set for the nearest vectors, the newest of all for the rest; and of the
    other workloads that have peers, as far as there are records of them."""
    records = list(found)
    newest: dict[str, list[dict[str, Any]]] = {}
    for r in (r for r in records if r["workload"] == "peers"):
        name = r["dataset"]["name"]
        if newest.get(name) and newest[name][0]["started"] < r["started"]:
            del newest[name]
        newest.setdefault(name, []).append(r)
    parts: list[str] = []
    for mine in newest.values():
        about = mine[0]["dataset"]
        if dense := [r for r in mine if r.get("kind") == "dense"]:
            metric = about.get("metric", "cosine")
            parts += [f"## Nearest vectors: {about['name']}, {about['rows']:,} x {about['dim']}, {metric}, top 10, one query at a time", _dense(dense)]
    last = list(newest.values())[-1]
    for kind, head in KINDS.items():
        if shown := next((k for mine in reversed(newest.values()) if (k := [r for r in mine if r.get("kind") == kind])), []):
            parts += [head, _plain(shown, ("promise",))]
    ratios = [(r, r["dataset"]["name"]) for mine in newest.values() for r in mine if r["who"] == "ratio"]
    if ratios:
        parts += ["## Ours over the best peer, round by round", _ratios(ratios, "vectors")]
    for workload, (head, measures) in OTHERS.items():
        if mine := [r for r in records if r["workload"] == workload]:
            parts += [head, *_section([r for r in mine if r["started"] == max(m["started"] for m in mine)], measures)]
    first = last[0]
    quick = " Quick: small inputs and few rounds, a glance and not a figure." if first["quick"] else ""
    code, machine = first["code"], first["machine"]
    sets = ", ".join(f"{mine[0]['dataset']['name']} (sha256 {mine[0]['dataset']['sha256'][:16]}…, {mine[0]['rounds']} rounds)" for mine in newest.values())
    told = (
        f"{first['started']}, peers alternating in one process on one core, medians; {machine['cpu']}, Python {machine['python']}; "
        f"lsmtensor {code['version']} ({(code['commit'] or 'no commit')[:12]}); vectors: {sets}.{quick}"
    )
    return "\n\n".join([told, *parts, *(f"*{line}.*" for line in absent())])


def _dense(records: list[dict[str, Any]]) -> str:
    lines = ["| peer | " + " | ".join(f"QPS at {r:.2f}" for r in RECALLS) + " | highest recall | build s | bytes |", "|---|" + "---|" * (len(RECALLS) + 3)]
    for name in dict.fromkeys(r["peer"] for r in records):
        mine = [r for r in records if r["peer"] == name]
        best = [max((r["summary"]["queries/s"]["median"] for r in mine if r["recall@10"] >= least), default=None) for least in RECALLS]
        cells = ["–" if b is None else number(b) for b in best]
        top = max(r["recall@10"] for r in mine)
        lines.append(f"| {name} | {' | '.join(cells)} | {top:.3f} | {number(mine[0]['build_seconds'])} | {size(mine[0]['bytes'])} |")
    return "\n".join(lines)


def _plain(records: list[dict[str, Any]], facts: tuple[str, ...]) -> str:
    measures = [m for m in records[0]["summary"] if m != "wrong"]
    heads = [f.replace("_seconds", " s") for f in facts]
    lines = ["| peer | " + " | ".join([*measures, *heads]) + " |", "|---|" + "---|" * (len(measures) + len(facts))]
    for r in records:
        told = [number(f) if isinstance(f := r[fact], float) else str(f) for fact in facts]
        lines.append("| " + " | ".join([r["peer"], *(number(r["summary"][m]["median"]) for m in measures), *told]) + " |")
    return "\n".join(lines)


def _section(records: list[dict[str, Any]], measures: tuple[str, ...]) -> list[str]:
    """The cases of a run in a table, and its ratios."""
    shown = [m for m in measures if any(m in r["summary"] for r in records)]
    lines = [f"| case | {' | '.join(shown)} |", "|---|" + "---|" * len(shown)]
    for r in (r for r in records if r["who"] != "ratio"):
        lines.append("| " + " | ".join([r["case"], *(number(r["summary"][m]["median"]) if m in r["summary"] else "" for m in shown)]) + " |")
    ratios = [(r, f"`bench {r['workload']}`") for r in records if r["who"] == "ratio"]
    told = f"{records[0]['dataset']['name']}; rounds: {records[0]['rounds']}."
    return [told, "\n".join(lines), *([_ratios(ratios, "workload")] if ratios else [])]


def _ratios(records: list[tuple[dict[str, Any], str]], over: str) -> str:
    lines = [f"| {r['case'].removeprefix('ratio: ')} | {name} | {_spread(r['summary']['ratio'])} |" for r, name in records]
    return "\n".join([f"| ratio | {over} | median (quartiles) |", "|---|---|---|", *lines])


def _spread(s: dict[str, float]) -> str:
    """A median with its quartiles; it is no number where no peer did what was asked."""
    if math.isnan(s["median"]):
        return "no peer reaches it"
    return f"{number(s['median'])} ({number(s['q1'])} – {number(s['q3'])})"


def renew(text: str, made: str) -> str:
    """A page with its figures replaced; what stands around them stays."""
    return FIGURES.sub(lambda found: f"{found[1]}\n\n{made}\n\n{found[2]}", text)

