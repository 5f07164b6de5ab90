"""What a result says of how it came about: one JSON object a line, readable without this package."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..config import RunConfig
from ..errors import InvalidArgumentError

PACKAGES = ("numpy", "pyarrow", "numba", "cython", "blake3", "crc32c", "hnswlib", "faiss-cpu")
SCHEMA = 1


def spread(samples: Iterable[float]) -> dict[str, float]:
    """Median, quartiles and extremes of raw samples."""
    values = np.asarray(list(samples), float)
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {
        "median": float(middle), "q1": float(low), "q3": float(high), "min": float(values.min()), "max": float(values.max()),
        "n": len(values),
    }  # fmt: skip


def environment() -> dict[str, Any]:
    """Code, machine and packages, as far as they can be read."""
    return {"code": code_version(), "machine": machine(), "packages": packages()}


def code_version() -> dict[str, Any]:
    """The version, and the commit with whether the tree was changed since, where this is a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain")
    return {"version": __version__, "commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, system, Python."""
    return {
        "cpu": _cpu(), "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "system": platform.platform(),
        "python": platform.python_version(),
    }  # fmt: skip


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def packages() -> dict[str, str]:
    """Versions of what takes part, where installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def header(workload: str, config: RunConfig, dataset: dict[str, Any], seed: int) -> dict[str, Any]:
    """What all lines of one run share."""
    return {
        "schema": SCHEMA, "workload": workload, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "config": config.to_dict(),
        "config_hash": config.hash(), "dataset": dataset, "seed": seed, **environment(),
    }  # fmt: skip


def write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Append records to a JSONL file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as out:
        out.writelines(json.dumps(line, default=_plain) + "\n" for line in lines)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise InvalidArgumentError(f"a record holds a {type(value).__name__}; wanted plain numbers, text, lists, dicts")


def read(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of a file, or of every ``.jsonl`` file in a folder, by name."""
    where = Path(path)
    files = sorted(where.glob("*.jsonl")) if where.is_dir() else [where]
    if not files or not files[0].is_file():
        raise InvalidArgumentError(f"{where} holds no records (*.jsonl); make some with: lsmtensor bench ingest --quick --out {where}")
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as why:
                raise InvalidArgumentError(f"{file}, line {number} is not a record: {why}") from why
            if not isinstance(record, dict) or "case" not in record or "samples" not in record:
                raise InvalidArgumentError(f"{file}, line {number} is not a record: it lacks case or samples")
            yield record
