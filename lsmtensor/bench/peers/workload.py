"""The four jobs that peers do: nearest vectors, best texts, small rows, large arrays. Everything on one core, each peer in its turn."""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import datasets, vectors
from ..recall import recall
from ..runner import Options, Ratio
from .base import KINDS, OWN, Arrays, Dense, Keys, Peer, Words, choose

K = 10
BATCH = 1000
BOX = (slice(300, 400), slice(100, 300))
LEAST = 0.9
"""The recall at which ratios of dense peers are taken."""


@dataclass
class State:
    folder: Path
    data: vectors.Vectors
    texts: list[str]
    words: list[str]
    best: list[set[int]]
    keys: list[bytes]
    values: list[bytes]
    arrays: dict[str, np.ndarray]
    peers: dict[str, Peer] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    recalls: dict[str, float] = field(default_factory=dict)
    turn: int = 0


def setup(options: Options) -> State:
    rng, count = np.random.default_rng(options.seed), 100 if options.quick else 400
    data = vectors.load(options.data, count, K, options.seed)
    real = datasets.debian(options.data if options.data and Path(options.data).is_dir() else None)
    texts = [t or "" for t in real.packages.column("description").to_pylist()]
    rows = 5000 if options.quick else 50_000
    keys = [hashlib.md5(str(i).encode(), usedforsecurity=False).digest() for i in range(rows)]
    side = 512 if options.quick else 2048
    arrays = {f"layer{i}": rng.standard_normal((side, side), dtype=np.float32) for i in range(8)}
    state = State(
        options.path, data, texts, _questions(texts, count, rng), [],
        keys, [rng.bytes(100) for _ in range(BATCH)], arrays,
    )  # fmt: skip
    chosen = {kind: choose(kind, options.peers) for kind in KINDS}
    for name, made in chosen["dense"].items():
        _add_dense(state, name, made(), options)
    for name, made in chosen["words"].items():
        _add_words(state, name, made())
    for kind in ("keys", "arrays"):
        for name, made in chosen[kind].items():
            state.cases[f"{kind}: {name}"] = {"who": _who(name), "kind": kind, "peer": name, "promise": made.promise}
            state.peers[f"{kind}: {name}"] = made()
    return state


def _who(name: str) -> str:
    return OWN if name.startswith(OWN) else "peer"


def _questions(texts: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Three to six neighbouring words of a text, for each query."""
    found: list[str] = []
    while len(found) < count:
        words = ["".join(c for c in w if c.isalnum()) for w in texts[int(rng.integers(len(texts)))].lower().split()]
        words = [w for w in words if len(w) > 1 and w.isascii()]
        if len(words) > 8:
            at, many = int(rng.integers(len(words) - 6)), int(rng.integers(3, 7))
            found.append(" ".join(words[at : at + many]))
    return found


def _add_dense(state: State, name: str, peer: Dense, options: Options) -> None:
    begin = time.perf_counter()
    peer.build(state.data.points, state.data.metric)
    about = {"who": _who(name), "kind": "dense", "peer": name, "build_seconds": time.perf_counter() - begin, "bytes": peer.bytes()}
    settings = peer.settings[:: 2 if options.quick and len(peer.settings) > 3 else 1]
    for setting in settings:
        case = " ".join([f"dense: {name}", *(f"{k}={v}" for k, v in setting.items())])
        state.peers[case], state.cases[case] = peer, {**about, "params": setting}
        found = np.array([peer.search(q, K, **setting) for q in state.data.queries])
        state.recalls[case] = state.cases[case]["recall@10"] = recall(found, state.data.true)


def _add_words(state: State, name: str, peer: Words) -> None:
    folder = state.folder / f"words-{len(state.peers)}"
    folder.mkdir()
    begin = time.perf_counter()
    peer.build(state.texts, folder)
    seconds = time.perf_counter() - begin
    found = [set(peer.search(q, K)) for q in state.words]
    state.best = state.best or found  # ours come first
    same = float(np.mean([len(a & b) / max(1, len(a)) for a, b in zip(state.best, found, strict=True)]))
    state.cases[f"words: {name}"] = {"who": _who(name), "kind": "words", "peer": name, "build_seconds": seconds, "same as ours": same}
    state.peers[f"words: {name}"] = peer


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.cases


def dataset(state: State) -> dict[str, Any]:
    return state.data.about


def ratios(state: State) -> list[Ratio]:
    """Ours over the best peer of each kind; of dense ones the least effort that reaches a recall of 0.9 on either side."""
    found = []
    for kind, measures in {"words": ("queries/s",), "keys": ("put 1,000 synced, rows/s", "get/s"), "arrays": ("save GB/s", "load GB/s")}.items():
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
    if isinstance(peer, Words):
        begin = time.perf_counter()
        for question in state.words:
            peer.search(question, K)
        return {"queries/s": len(state.words) / (time.perf_counter() - begin)}
    state.turn += 1
    folder = state.folder / f"turn-{state.turn}"
    folder.mkdir()
    try:
        return _keys(state, peer, folder) if isinstance(peer, Keys) else _arrays(state, peer, folder)  # type: ignore[arg-type]
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


def _arrays(state: State, peer: Arrays, folder: Path) -> dict[str, float]:
    size = sum(a.nbytes for a in state.arrays.values())
    begin = time.perf_counter()
    peer.save(folder, state.arrays)
    saved = time.perf_counter() - begin
    begin = time.perf_counter()
    total = sum(int(a.reshape(-1).view(np.uint64).sum(dtype=np.uint64)) for a in peer.load(folder).values()) % 2**64
    loaded = time.perf_counter() - begin
    part = peer.part(folder, "layer3", BOX)
    begin = time.perf_counter()
    for _ in range(10):
        peer.part(folder, "layer3", BOX)
    parts = 10 / (time.perf_counter() - begin)
    want = sum(int(a.reshape(-1).view(np.uint64).sum(dtype=np.uint64)) for a in state.arrays.values()) % 2**64
    wrong = float(total != want or not np.array_equal(part, state.arrays["layer3"][BOX]))
    return {"save GB/s": size / saved / 1e9, "load GB/s": size / loaded / 1e9, "open and slice /s": parts, "wrong": wrong}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert not measures.get("wrong"), f"{case}: other values came back than were stored"
    assert measures.get("recall@10", 1) >= 0.3, f"{case}: recall {measures['recall@10']:.3f}"
    assert state.cases[case].get("same as ours", 1) >= 0.3, f"{case}: other texts are found than ours"


def teardown(state: State) -> None:
    for peer in set(state.peers.values()):
        if not isinstance(peer, Keys):
            peer.close()
