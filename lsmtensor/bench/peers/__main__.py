"""``make peers``: every comparison there is, within so many minutes, onto one page.

python -m lsmtensor.bench.peers [--quick] [--minutes 36] [--data FOLDER] [--out runs] PAGE
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from .. import runner
from ..record import read
from . import page

LARGE = ("hnswlib M=16", "faiss IVF,PQx4fs,Refine", "ScaNN")
"""Those that build a graph or cells of a million rows within minutes on one core."""
PLAN: tuple[tuple[str, float, dict[str, object]], ...] = (
    ("peers", 0.19, {}),
    ("peers", 0.18, {"only": "^dense", "data": "clustered(rows=200000, dim=768, clusters=2000)", "peers": LARGE, "rounds": 3}),
    ("peers", 0.22, {"only": "^dense", "data": "clustered(rows=1000000, dim=128, clusters=10000)", "peers": LARGE, "rounds": 3}),
    ("filter", 0.06, {"rounds": 3}),
    ("sparse", 0.1, {"rounds": 3}),
    ("quant", 0.08, {"rounds": 1, "warmup": 0}),
    ("ingest", 0.06, {}),
    ("point", 0.06, {"rounds": 5}),
    ("tensor-io", 0.05, {"rounds": 3}),
)
"""Workload, its share of the time, what is special. Those of large sets are left out of a quick run."""


@click.command()
@click.argument("written", metavar="PAGE", type=click.Path(dir_okay=False, exists=True))
@click.option("--quick", is_flag=True, help="Small inputs, few rounds: a glance of five minutes, not figures.")
@click.option("--minutes", type=click.FloatRange(1), default=36.0, show_default=True)
@click.option("--data", help="A folder of the full data set instead of the bundled part.")
@click.option("--out", default="runs", show_default=True, help="Where records go.")
def main(written: str, quick: bool, minutes: float, data: str | None, out: str) -> None:
    options = runner.Options(quick=quick, rounds=3 if quick else 5, data=data)
    for workload, share, special in PLAN:
        if not (quick and "data" in special):
            chosen = replace(options, minutes=share * minutes, **special)  # type: ignore[arg-type]
            config = options.config.with_set("wal.sync=none") if workload == "point" else options.config
            runner.run_to(workload, replace(chosen, config=config), out, click.echo)
    where = Path(written)
    where.write_text(page.renew(where.read_text(encoding="utf-8"), page.figures(read(out))), encoding="utf-8")


if __name__ == "__main__":
    main()
