"""The four jobs that peers do: nearest vectors, small rows, rows with vectors, large arrays. Everything on one core, each peer in its turn.

Texts and sparse vectors are `bench sparse`, under filters `bench filter`, codes `bench quant`: `page` puts all of them on one page.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .. import vectors
from ..recall import recall
from ..runner import Options, Ratio
from .base import LIMIT, OWN, Arrays, Dense, Keys, Peer, Tables, choose, matrix

K = 10
BATCH = 1000
BOX = (slice(300, 400), slice(100, 300))
RATIOS = {
    "keys": ("put 1,000 synced, rows/s", "get/s", "scan rows/s"),
    "tables": ("write GB/s", "open and get /s", "open and read GB/s"),
    "arrays": ("save GB/s", "load GB/s", "open and slice /s"),
}
LEAST = 0.9
"""The recall at which ratios of dense peers are taken."""


@dataclass
class State:
    folder: Path
    data: vectors.Vectors
    keys: list[bytes]
    values: list[bytes]
    batches: list[pa.RecordBatch]
    arrays: dict[str, np.ndarray]
    peers: dict[str, Peer] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    recalls: dict[str, float] = field(default_factory=dict)
    turn: int = 0


def setup(options: Options) -> State:
    rng, count = np.random.default_rng(options.seed), 100 if options.quick else 400
    data = vectors.load(options.data, count, K, options.seed)
    rows = 5000 if options.quick else 50_000
    keys = [hashlib.md5(str(i).encode(), usedforsecurity=False).digest() for i in range(rows)]
    side = 512 if options.quick else 2048
    arrays = {f"layer{i}": rng.standard_normal((side, side), dtype=np.float32) for i in range(8)}
    state = State(options.path, data, keys, [rng.bytes(100) for _ in range(BATCH)], _batches(200 if options.quick else 5000, rng), arrays)
    for name, made in choose("dense", options.peers).items():
        _add_dense(state, name, made(), options)
    for kind in ("keys", "tables", "arrays"):
        for name, made in choose(kind, options.peers).items():
            state.cases[f"{kind}: {name}"] = {"who": _who(name), "kind": kind, "peer": name, "promise": made.promise}
            state.peers[f"{kind}: {name}"] = made()
    return state


def _batches(rows: int, rng: np.random.Generator) -> list[pa.RecordBatch]:
    """Ten batches of an id and a vector of 768."""
    made = []
    for at in range(0, 10 * rows, rows):
        values = rng.standard_normal((rows, 768), dtype=np.float32)
        vector = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 768)
        made.append(pa.record_batch({"id": np.arange(at, at + rows), "vector": vector}))
    return made


def _who(name: str) -> str:
    """Whose case it is; what the machine allows at most is no peer."""
    return OWN if name.startswith(OWN) else "limit" if name.endswith(LIMIT) else "peer"


def _add_dense(state: State, name: str, peer: Dense, options: Options) -> None:
    settings = peer.settings[:: 2 if options.quick and len(peer.settings) > 3 else 1]
    asked = {" ".join([f"dense: {name}", *(f"{k}={v}" for k, v in setting.items())]): setting for setting in settings}
    if not any(re.search(options.only, case) for case in asked):
        return
    begin = time.perf_counter()
    peer.build(state.data.points, state.data.metric)
    about = {"who": _who(name), "kind": "dense", "peer": name, "build_seconds": time.perf_counter() - begin, "bytes": peer.bytes()}
    for case, setting in asked.items():
        found = np.array([peer.search(q, K, **setting) for q in state.data.queries])
        state.recalls[case] = recall(found, state.data.true)
        state.peers[case], state.cases[case] = peer, {**about, "params": setting, "recall@10": state.recalls[case]}


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.cases


def dataset(state: State) -> dict[str, Any]:
    return state.data.about


def ratios(state: State) -> list[Ratio]:
    """Ours over the best peer of each kind; of dense ones the least effort that reaches a recall of 0.9 on either side."""
    found = []
    for kind, measures in RATIOS.items():
        others = tuple(c for c, about in state.cases.items() if about["kind"] == kind and about["who"] == "peer")
        if others and f"{kind}: {OWN}" in state.cases:
            found += [Ratio(f"{kind}, {m}: ours / best peer", f"{kind}: {OWN}", others, m) for m in measures]
    enough: dict[str, str] = {}
    for case, got in state.recalls.items():
        if got >= LEAST:
            enough.setdefault(state.cases[case]["peer"], case)
    others = tuple(c for name, c in enough.items() if not name.startswith(OWN))
    return found + [Ratio(f"dense at {LEAST}: {name} / best peer", c, others, "queries/s") for name, c in enough.items() if others and name.startswith(OWN)]


def run(state: State, case: str) -> dict[str, float]:
    peer = state.peers[case]
    if isinstance(peer, Dense):
        return _dense(state, peer, state.cases[case]["params"])
    state.turn += 1
    folder = state.folder / f"turn-{state.turn}"
    folder.mkdir()
    try:
        if isinstance(peer, Keys):
            return _keys(state, peer, folder)
        return _tables(state, peer, folder) if isinstance(peer, Tables) else _arrays(state, peer, folder)  # type: ignore[arg-type]
    finally:
        shutil.rmtree(folder)


def _dense(state: State, peer: Dense, setting: dict[str, int]) -> dict[str, float]:
    peer.search(state.data.queries[0], K, **setting)
    begin = time.perf_counter()
    found = [peer.search(q, K, **setting) for q in state.data.queries]
    seconds = time.perf_counter() - begin
    return {"queries/s": len(found) / seconds, "recall@10": recall(np.array(found), state.data.true)}


def _keys(state: State, peer: Keys, folder: Path) -> dict[str, float]:
    peer.open(folder)
    try:
        begin = time.perf_counter()
        for at in range(0, len(state.keys), BATCH):
            peer.put(state.keys[at : at + BATCH], state.values)
        batches = len(state.keys) / (time.perf_counter() - begin)
        few = state.keys[:: max(1, len(state.keys) // 100)]
        begin = time.perf_counter()
        for key in few:
            peer.put([key], state.values[:1])
        single = len(few) / (time.perf_counter() - begin)
        wanted, none = state.keys[3 :: max(1, len(state.keys) // 2000)], [bytes(15) + bytes([i % 256]) for i in range(2000)]
        peer.get(wanted[0])
        begin = time.perf_counter()
        hits = sum(peer.get(key) is not None for key in wanted)
        get = len(wanted) / (time.perf_counter() - begin)
        begin = time.perf_counter()
        ghosts = sum(peer.get(key) is not None for key in none)
        miss = len(none) / (time.perf_counter() - begin)
        begin = time.perf_counter()
        held = peer.scan()
        scan = len(state.keys) / (time.perf_counter() - begin)
    finally:
        peer.close()
    wrong = float(hits != len(wanted) or ghosts != 0 or held != 100 * len(state.keys))
    return {"put 1,000 synced, rows/s": batches, "put one synced /s": single, "get/s": get, "get absent/s": miss, "scan rows/s": scan, "wrong": wrong}


def _tables(state: State, peer: Tables, folder: Path) -> dict[str, float]:
    rows = [matrix(batch.column("vector")) for batch in state.batches]
    begin = time.perf_counter()
    peer.write(folder, state.batches)
    written = time.perf_counter() - begin
    ids = range(7, sum(map(len, rows)), sum(map(len, rows)) // 10)
    begin = time.perf_counter()
    found = [peer.row(folder, i) for i in ids]
    got = (time.perf_counter() - begin) / len(ids)
    begin = time.perf_counter()
    total = sum(_words(part) for part in peer.read(folder)) % 2**64
    read = time.perf_counter() - begin
    wrong = total != sum(map(_words, rows)) % 2**64 or any(not np.array_equal(f, rows[i // len(rows[0])][i % len(rows[0])]) for i, f in zip(ids, found, strict=True))
    size = sum(r.nbytes for r in rows)
    return {"write GB/s": size / written / 1e9, "open and get /s": 1 / got, "open and read GB/s": size / read / 1e9, "wrong": float(wrong)}


def _words(array: np.ndarray) -> int:
    """The sum of its bytes as 64-bit integers: every byte counts, in any order."""
    return int(array.reshape(-1).view(np.uint64).sum(dtype=np.uint64))


def _arrays(state: State, peer: Arrays, folder: Path) -> dict[str, float]:
    size = sum(a.nbytes for a in state.arrays.values())
    begin = time.perf_counter()
    peer.save(folder, state.arrays)
    saved = time.perf_counter() - begin
    begin = time.perf_counter()
    total = sum(map(_words, peer.load(folder).values())) % 2**64
    loaded = time.perf_counter() - begin
    part = peer.part(folder, "layer3", BOX)
    begin = time.perf_counter()
    for _ in range(10):
        peer.part(folder, "layer3", BOX)
    parts = 10 / (time.perf_counter() - begin)
    want = sum(map(_words, state.arrays.values())) % 2**64
    wrong = float(total != want or not np.array_equal(part, state.arrays["layer3"][BOX]))
    return {"save GB/s": size / saved / 1e9, "load GB/s": size / loaded / 1e9, "open and slice /s": parts, "wrong": wrong}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert not measures.get("wrong"), f"{case}: other values came back than were stored"
    assert measures.get("recall@10", 1) >= 0.3, f"{case}: recall {measures['recall@10']:.3f}"


def teardown(state: State) -> None:
    for peer in set(state.peers.values()):
        if isinstance(peer, Dense):
            peer.close()
