"""What every artifact shares: sizes, the record, tables and figures drawn from it, and the check of its claims.

An artifact is a folder with ``run.py``, which calls `main` with three functions:

    measure(scale, seed) -> rows     dicts of plain values; all that takes time, and nothing else. For hours of work: {name: () -> rows},
                                     a job each; an interrupted run keeps the jobs that it did and goes on with the others
    facts(rows) -> {name: number}    what claims are about, computed from the rows alone
    show(rows, plt) -> (tables, figure)    tables as {title: rows of dicts}; a matplotlib figure

``python run.py`` measures at laptop size and leaves ``results.jsonl``, ``table.md``, ``figure.svg`` and ``verdicts.md`` in its folder;
``--redraw`` makes the last three from the record that is there; ``--scale smoke --out DIR`` is a check that takes seconds. It ends with code 1
where a claim's verdict is not the one that ``claims.toml`` states, in either direction: a claim that fails must be recorded as failing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from lsmtensor.bench import plots, record

SCALES = ("smoke", "laptop", "full")
Rows = list[dict[str, Any]]
Measure = Callable[[str, int], "Iterable[dict[str, Any]] | dict[str, Callable[[], Iterable[dict[str, Any]]]]"]
KEYS = {"id", "sentence", "source", "command", "fact", "expected", "tolerance", "at_least", "at_most", "status", "reason", "scales"}


def main(
    where: str, measure: Measure, facts: Callable[[Rows], dict[str, float]],
    show: Callable[[Rows, Any], tuple[dict[str, Rows], Any]],
) -> None:  # fmt: skip
    """The command line of an artifact; ``where`` is the ``__file__`` of its ``run.py``."""
    folder = Path(where).resolve().parent
    parser = argparse.ArgumentParser(description=f"The artifact {folder.name}: see its README.md.")
    parser.add_argument("--scale", choices=SCALES, default="laptop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=folder, help="where results go; the artifact's own folder by default")
    parser.add_argument("--redraw", action="store_true", help="tables, figure and verdicts from the record that is there")
    given = parser.parse_args()
    if given.scale == "smoke" and given.out == folder:
        parser.error("smoke results are no figures: give another folder with --out")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.redraw:
        head, rows = load(given.out / "results.jsonl")
    else:
        head, rows = _measured(folder.name, measure, given.scale, given.seed, given.out / "results.jobs")
        save(given.out / "results.jsonl", head, rows)
    found = {name: float(value) for name, value in facts(rows).items()}
    plt = plots.pyplot()
    plt.rcParams.update({"svg.hashsalt": folder.name, "svg.fonttype": "none"})
    tables, figure = show(rows, plt)
    (given.out / "table.md").write_text(markdown(folder.name, head, tables), encoding="utf-8")
    figure.savefig(given.out / "figure.svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    judged = [judge(claim, found, head["scale"]) for claim in claims(folder / "claims.toml")]
    (given.out / "verdicts.md").write_text(verdicts(head, judged), encoding="utf-8")
    for claim in judged:
        print(f"{'as recorded' if claim['right'] else 'NOT AS RECORDED':16}{claim['verdict']:10}{claim['id']}: {claim['told']}")
    sys.exit(0 if all(c["right"] for c in judged) else 1)


def _measured(name: str, measure: Measure, scale: str, seed: int, done: Path) -> tuple[dict[str, Any], Rows]:
    begin, rows = time.perf_counter(), []
    made = measure(scale, seed)
    for row in _jobs(made, done, [name, scale, seed, record.code_version()["commit"]]) if isinstance(made, dict) else made:
        rows.append(row)
        if sys.stderr.isatty():
            print(f"\r{name}: {len(rows)} results, {time.perf_counter() - begin:.0f} s ", end="", flush=True, file=sys.stderr)
    done.unlink(missing_ok=True)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"artifact": name, "scale": scale, "seed": seed, "ended": started, "seconds": time.perf_counter() - begin, **record.environment()}, rows


def _jobs(jobs: dict[str, Callable[[], Iterable[dict[str, Any]]]], path: Path, this: list[Any]) -> Iterator[dict[str, Any]]:
    """Rows of all jobs; those of another run of the same commit, size and seed are taken from ``path``, where each job that ended is kept."""
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    finished = {k["job"]: k["rows"] for k in kept if k["of"] == this}
    for name, job in jobs.items():
        if name not in finished:
            finished[name] = json.loads(json.dumps(list(job()), default=record._plain))
            with open(path, "a", encoding="utf-8") as out:
                out.write(json.dumps({"of": this, "job": name, "rows": finished[name]}) + "\n")
        yield from finished[name]


# -- the record ----------------------------------------------------------------------------------


def save(path: Path, head: dict[str, Any], rows: Rows) -> None:
    """One JSON object a line, the first says how the others came about; whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(line, default=record._plain) + "\n" for line in (head, *rows)), encoding="utf-8")
    part.replace(path)


def load(path: Path) -> tuple[dict[str, Any], Rows]:
    head, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return head, rows


# -- claims --------------------------------------------------------------------------------------


def claims(path: Path) -> list[dict[str, Any]]:
    """The claims of a file, each checked for form: `ValueError` says what is wrong with which."""
    listed: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    for claim in listed:
        where = f"{path}, claim {claim.get('id')!r}"
        if unknown := set(claim) - KEYS - set(SCALES):
            raise ValueError(f"{where}: unknown {sorted(unknown)}")
        if missing := {"id", "sentence", "source", "command", "fact", "status"} - set(claim):
            raise ValueError(f"{where} lacks {sorted(missing)}")
        if claim["status"] not in ("holds", "fails"):
            raise ValueError(f"{where}: status {claim['status']!r}; holds or fails")
        if claim["status"] == "fails" and not claim.get("reason"):
            raise ValueError(f"{where} fails without a reason")
        if not {"expected", "at_least", "at_most"} & set(claim):
            raise ValueError(f"{where} says nothing that could fail")
    if len({c["id"] for c in listed}) < len(listed):
        raise ValueError(f"{path}: an id is given twice")
    return listed


def judge(claim: dict[str, Any], facts: dict[str, float], scale: str) -> dict[str, Any]:
    """The claim with its ``verdict`` (holds, fails or, where it is not for this scale, untried), whether that is ``right``, and a sentence."""
    if scale not in claim.get("scales", SCALES):
        return {**claim, "verdict": "untried", "right": True, "told": f"not at {scale} size", "value": None}
    bounds = {**claim, **claim.get(scale, {})}
    value = facts[claim["fact"]]
    holds, told = np.isfinite(value), [f"{claim['fact']} = {value:.4g}"]
    if "expected" in bounds:
        holds &= abs(value - bounds["expected"]) <= bounds["tolerance"]
        told.append(f"expected {bounds['expected']:g} ± {bounds['tolerance']:g}")
    if "at_least" in bounds:
        holds &= value >= bounds["at_least"]
        told.append(f"at least {bounds['at_least']:g}")
    if "at_most" in bounds:
        holds &= value <= bounds["at_most"]
        told.append(f"at most {bounds['at_most']:g}")
    verdict = "holds" if holds else "fails"
    return {**claim, "verdict": verdict, "right": verdict == claim["status"], "told": ", ".join(told), "value": value}


# -- pages ---------------------------------------------------------------------------------------


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


def grid(rows: Rows) -> str:
    """A Markdown table; columns in the order in which rows first name them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(cell(row.get(name)) for name in names) + " |" for row in rows)])


def told(head: dict[str, Any]) -> str:
    """How figures came about, in a sentence."""
    code, machine = head["code"], head["machine"]
    commit = (code["commit"] or "no commit")[:12] + (" with changes" if code["dirty"] else "")
    packages = ", ".join(f"{name} {version}" for name, version in head["packages"].items())
    return (
        f"Measured {head['ended']} in {head['seconds']:.0f} s at {head['scale']} size, seed {head['seed']}; lsmtensor {code['version']} ({commit}); "
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; {packages}."
    )


def markdown(name: str, head: dict[str, Any], tables: dict[str, Rows]) -> str:
    return "\n\n".join([f"# {name}: results", *(f"## {title}\n\n{grid(rows)}" for title, rows in tables.items()), told(head)]) + "\n"


def verdicts(head: dict[str, Any], judged: Rows) -> str:
    parts = ["# Verdicts"]
    for claim in judged:
        reason = f" {claim['reason']}" if claim.get("reason") else ""
        parts.append(f"**{claim['id']}: {claim['verdict']}** ({claim['told']}). {claim['sentence']} — *{claim['source']}*{reason}")
    return "\n\n".join([*parts, told(head)]) + "\n"


# -- measuring -----------------------------------------------------------------------------------


def seconds(call: Callable[[], Any], least: float = 0.05, rounds: int = 5) -> list[float]:
    """Seconds of one call, ``rounds`` times, each over as many calls as take ``least`` seconds; the first call is not counted."""
    call()
    begin = time.perf_counter()
    call()
    many = max(1, int(least / max(time.perf_counter() - begin, 1e-9)))
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(many):
            call()
        found.append((time.perf_counter() - begin) / many)
    return found


def exponent(x: Iterable[float], y: Iterable[float]) -> float:
    """b of the least-squares fit y = a x^b."""
    return float(np.polyfit(np.log(list(x)), np.log(list(y)), 1)[0])


def spectrum(count: int, dim: int, seed: int, decay: float = 0.5, clusters: int = 0) -> np.ndarray:
    """float32 (count, dim): normal with a power-law spectrum, as embeddings have, around ``clusters`` centres where given.
    Independent values of equal spread would make every index look bad: all distances are alike there."""
    rng = np.random.default_rng(seed)
    scale = (1.0 + np.arange(dim)) ** -decay
    rows = rng.standard_normal((count, dim)) * scale
    if clusters:
        rows = 0.6 * rows + (np.random.default_rng(1).standard_normal((clusters, dim)) * scale)[rng.integers(0, clusters, count)]
    return rows.astype(np.float32)


def at_recall(recalls: Sequence[float], values: Sequence[float], least: float) -> float:
    """The value where a sweep reaches a recall, between its steps on a log scale; the first step's where that has more, NaN where none has."""
    points = sorted(zip(recalls, values, strict=True))
    reached = np.maximum.accumulate([p[0] for p in points])
    return float(np.exp(np.interp(least, reached, np.log([p[1] for p in points])))) if reached[-1] >= least else float("nan")


@contextmanager
def counting(*makers: tuple[Any, str]) -> Iterator[list[int]]:
    """Distances that kernels in numpy compute: ``makers`` are (owner, name) of the functions that make their functions from rows to distances.
    The compiled kernels walk alike."""
    count = [0]

    def counted(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*given: Any) -> Any:
            far = make(*given)

            def asked(rows: np.ndarray) -> Any:
                count[0] += len(rows)
                return far(rows)

            return asked

        return made

    with ExitStack() as patches:
        for owner, name in makers:
            patches.enter_context(mock.patch.object(owner, name, counted(getattr(owner, name))))
        yield count
