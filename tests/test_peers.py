"""Peers: every installed one does its job right on a few rows; absent ones are named; the page is made from records."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.bench import peers, runner
from lsmtensor.bench.peers import base, page

SLOW = ("bm25s", "lance")  # the first compiles, the second starts threads of its own
INSTALLED = [
    pytest.param(peer, id=f"{kind}-{name}", marks=[pytest.mark.slow] if peer.needs in SLOW else [])
    for kind in base.KINDS for name, peer in base.every(kind).items() if base.installed(peer)
]  # fmt: skip


@pytest.mark.parametrize("made", INSTALLED)
def test_a_peer_does_its_job(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    peer = made()
    try:
        if isinstance(peer, peers.Dense):
            points = rng.standard_normal((3000, 32)).astype(np.float32)
            peer.build(points)
            found = np.array([peer.search(q, 5, **peer.settings[-1]) for q in points[:20]])
            assert found.shape == (20, 5) and (found[:, 0] == np.arange(20)).mean() >= 0.9 and peer.bytes() > 0
        elif isinstance(peer, peers.Words):
            peer.build(["a log of commits", "a merge tree", "trees and logs", "commits merge in a tree", "nothing else"], tmp_path)
            assert peer.search("merge tree", 2)[0] in (1, 3) and len(peer.search("merge tree", 2)) == 2 and 0 in peer.search("commits", 3)
        elif isinstance(peer, peers.Keys):
            keys = [bytes([i]) * 16 for i in range(40)]
            peer.open(tmp_path)
            peer.put(keys, [b"x" * i for i in range(40)])
            peer.put(keys[:1], [b"again"])
            assert peer.get(keys[0]) == b"again" and peer.get(keys[39]) == b"x" * 39 and peer.get(b"?" * 16) is None
            assert peer.scan() == 5 + sum(range(40)) == sum(map(len, peer.values()))
        elif isinstance(peer, peers.Tables):
            rows = rng.random((600, 8), np.float32)
            batches = [
                pa.record_batch({"id": np.arange(at, at + 200), "vector": pa.FixedSizeListArray.from_arrays(pa.array(rows[at : at + 200].reshape(-1)), 8)})
                for at in range(0, 600, 200)
            ]
            peer.write(tmp_path, batches)
            assert np.array_equal(peer.row(tmp_path, 417), rows[417])
            assert np.array_equal(np.concatenate([part.reshape(-1, 8) for part in peer.read(tmp_path)]), rows)
        else:
            arrays = {"a": rng.random((600, 700), np.float32), "b": rng.random((3, 4), np.float32)}
            peer.save(tmp_path, arrays)
            back = peer.load(tmp_path)
            assert set(back) == {"a", "b"} and all(np.array_equal(back[n], arrays[n]) for n in arrays)
            box = (slice(500, 520), slice(0, 9))
            assert np.array_equal(peer.part(tmp_path, "a", box), arrays["a"][box])
    finally:
        peer.close()


def test_peers_are_chosen_by_name_or_library():
    assert list(peers.choose("keys", ("sqlite3",))) == ["lsmtensor", "SQLite"]
    assert list(peers.choose("keys", ("SQLite",), own=False)) == ["SQLite"]
    assert list(peers.choose("dense", ())) == [n for n in base.every("dense") if n.startswith("lsmtensor")]
    with pytest.raises(lt.UnknownNameError, match="did you mean 'SQLite'"):
        peers.choose("keys", ("SQLight",))


def test_an_absent_peer_is_said(monkeypatch):
    monkeypatch.setattr(base.every("keys")["LMDB"], "needs", "no_such_module")
    assert "no_such_module: not installed, so LMDB is left out" in peers.absent()
    assert "LMDB" not in peers.choose("keys", None)
    with pytest.raises(lt.UnavailableError, match="lsmtensor\\[peers\\]"):
        peers.choose("keys", ("no_such_module",))


def test_the_workload_and_its_page(tmp_path, monkeypatch):
    """The keys and arrays of two peers, small; the page holds what the record says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base.every("dense")["lsmtensor hnsw"], "settings", ({"ef": 20},))
    options = runner.Options(rounds=1, warmup=0, quick=True, peers=("sqlite3", "safetensors"))
    result = runner.run(peers, options, lambda text: None)
    assert not list(tmp_path.glob("lsmtensor-*")), "files were left"
    assert {r["peer"] for r in result.records if r["who"] == "peer"} == {"SQLite", "safetensors"}
    assert any(name.startswith("keys, get/s") for name in result.ratios)
    text = page.renew("# Page\n\n<!-- figures: make peers -->\nold\n<!-- end of figures -->\n\nafter\n", page.figures(result.records))
    assert "old" not in text and text.endswith("after\n") and "| SQLite |" in text and "| lsmtensor hnsw |" in text
    other = {"workload": "sparse", "case": "words: us", "who": "lsmtensor", "started": "1", "rounds": 1, "dataset": {"name": "few"}, "summary": {"queries/s": {"median": 7.0}}}
    assert "| words: us | 7 |" in page.figures([*result.records, other])
    assert page.renew(text, "x").count("<!-- figures: make peers -->") == 1


def test_a_wrong_value_gives_no_figure():
    with pytest.raises(AssertionError, match="other values"):
        peers.check(None, "keys: x", {"wrong": 1.0})
