"""The table of peers as a page of docs/, from records."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..words import number, size
from .base import absent

FIGURES = re.compile(r"(<!-- figures: [^>]* -->).*?(<!-- end of figures -->)", re.DOTALL)
RECALLS = (0.90, 0.95, 0.99)


def figures(records: Iterable[dict[str, Any]]) -> str:
    """Markdown tables of ``bench peers``: the newest run over each data set for the nearest vectors, the newest of all for the rest."""
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
    of = {kind: next((k for mine in reversed(newest.values()) if (k := [r for r in mine if r.get("kind") == kind])), []) for kind in ("words", "keys", "arrays")}
    if of["words"]:
        parts += ["## Best texts: BM25 over the packages' descriptions, top 10", _plain(of["words"], ("build_seconds", "same as ours"))]
    if of["keys"]:
        parts += ["## Small rows: 16-byte keys, 100-byte values", _plain(of["keys"], ("promise",))]
    if of["arrays"]:
        parts += ["## Large arrays", _plain(of["arrays"], ("promise",))]
    ratios = [r for mine in newest.values() for r in mine if r["who"] == "ratio"]
    if ratios:
        lines = [f"| {r['case'].removeprefix('ratio: ')} | {r['dataset']['name']} | {_spread(r['summary']['ratio'])} |" for r in ratios]
        parts += ["## Ours over the best peer, round by round", "\n".join(["| ratio | vectors | median (quartiles) |", "|---|---|---|", *lines])]
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


def _spread(s: dict[str, float]) -> str:
    return f"{number(s['median'])} ({number(s['q1'])} – {number(s['q3'])})"


def renew(text: str, made: str) -> str:
    """A page with its figures replaced; what stands around them stays."""
    return FIGURES.sub(lambda found: f"{found[1]}\n\n{made}\n\n{found[2]}", text)


if __name__ == "__main__":
    import sys
    from pathlib import Path

    from ..record import read

    where = Path(sys.argv[2])
    where.write_text(renew(where.read_text(encoding="utf-8"), figures(read(sys.argv[1]))), encoding="utf-8")
