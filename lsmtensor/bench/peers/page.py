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
    """Markdown tables of the newest run among records of ``bench peers``."""
    mine = [r for r in records if r["workload"] == "peers"]
    newest = max(r["started"] for r in mine)
    mine = [r for r in mine if r["started"] == newest]
    first, parts = mine[0], []
    by = {kind: [r for r in mine if r.get("kind") == kind] for kind in ("dense", "words", "keys", "arrays")}
    if by["dense"]:
        parts += [f"## Nearest vectors: {first['dataset']['rows']:,} x {first['dataset']['dim']}, cosine, top 10, one query at a time", _dense(by["dense"])]
    if by["words"]:
        parts += ["## Best texts: BM25 over the packages' descriptions, top 10", _plain(by["words"], ("build_seconds", "same as ours"))]
    if by["keys"]:
        parts += ["## Small rows: 16-byte keys, 100-byte values", _plain(by["keys"], ("promise",))]
    if by["arrays"]:
        parts += ["## Large arrays", _plain(by["arrays"], ("promise",))]
    ratios = [r for r in mine if r["who"] == "ratio"]
    if ratios:
        lines = [f"| {r['case'].removeprefix('ratio: ')} | {_spread(r['summary']['ratio'])} |" for r in ratios]
        parts += ["## Ours over the best peer, round by round", "\n".join(["| ratio | median (quartiles) |", "|---|---|", *lines])]
    quick = " Quick: small inputs and few rounds, a glance and not a figure." if first["quick"] else ""
    code, machine = first["code"], first["machine"]
    told = (
        f"{first['started']}, {first['rounds']} rounds, peers alternating in one process on one core, medians; {machine['cpu']}, Python {machine['python']}; "
        f"lsmtensor {code['version']} ({(code['commit'] or 'no commit')[:12]}); data {first['dataset']['name']}, sha256 {first['dataset']['sha256'][:16]}….{quick}"
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
