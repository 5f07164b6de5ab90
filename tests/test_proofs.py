"""Proofs of rows and of chunks of arrays: what they show, and that nothing else can be shown with them."""

from __future__ import annotations

import copy
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv

WEIGHTS = np.arange(60 * 50, dtype=np.float32).reshape(60, 50)
PLACES = [(0, 0), (2, 1), (2, 3)]


@pytest.fixture(scope="module")
def proofs():
    """(root, row proof, chunk proofs by (name, place)); JSON, and the database is gone."""
    with lt.open("p.lsm", env=MemoryEnv(), config=lt.RunConfig().with_set("sstable.chunk_bytes=4096")) as db:
        db.create_table("docs", lt.Schema([lt.Column("k", pa.int64()), lt.Column("text", pa.string())], primary_key="k")).upsert(
            {"k": np.arange(500), "text": [f"t{i}" for i in range(500)]}
        )
        for name, codec in (("plain", None), ("coded", "shuffle+zstd")):
            db.tensors.create(name, WEIGHTS.shape, "float32", chunks=(20, 15), codec=codec)
            db.tensors[name][:] = WEIGHTS
        db.flush()
        with db.snapshot() as snap:
            chunks = {(name, place): snap.prove_tensor(name, place) for name in ("plain", "coded") for place in PLACES}
            row, root = snap["docs"].prove(17), snap.root()
    return root, json.loads(json.dumps(row)), {key: json.loads(json.dumps(proof)) for key, proof in chunks.items()}


def test_chunks_are_proved_without_the_database(proofs):
    root, _, chunks = proofs
    for (name, (i, j)), proof in chunks.items():
        found = lt.verify_proof(proof, root=root)
        assert (found["name"], found["shape"], found["chunks"], found["chunk"]) == (name, (60, 50), (20, 15), (i, j))
        np.testing.assert_array_equal(found["values"], WEIGHTS[i * 20 : i * 20 + 20, j * 15 : j * 15 + 15])
        with pytest.raises(lt.CorruptionError, match="root"):
            lt.verify_proof(proof, root="11" * 32)


def test_parts_of_other_proofs_show_nothing(proofs):
    root, row, chunks = proofs
    one, other = chunks["plain", (0, 0)], chunks["coded", (2, 1)]
    for wrong in ({**one, "row": other["row"]}, {**one, "array": other["array"]}, {**one, "chunk": [2, 1]}, {**one, "chunk": [9, 0]}, {**one, "row": row}):
        with pytest.raises(lt.CorruptionError):
            lt.verify_proof(wrong, root=root)


def places(value, at=()):
    """Every place of a value in nested lists and dicts."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*at, key)
        yield from places(part, (*at, key))


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_a_changed_proof_is_refused_or_shows_what_is_there(proofs, data):
    root, row, chunks = proofs
    proof = copy.deepcopy([row, chunks["plain", (2, 3)], chunks["coded", (0, 0)]][data.draw(st.integers(0, 2))])
    right = lt.verify_proof(proof, root=root)
    *way, last = data.draw(st.sampled_from(list(places(proof))))
    owner = proof
    for step in way:
        owner = owner[step]
    old = owner[last]
    junk = st.one_of(st.none(), st.integers(-(2**70), 2**70), st.text(max_size=9), st.just([]), st.just({}), st.just(2**40), st.just(10**18))
    if isinstance(old, str) and old:
        at = data.draw(st.integers(0, len(old) - 1))
        junk |= st.sampled_from("0123456789abcdefAZ+/").map(lambda c: old[:at] + c + old[at + 1 :])
    owner[last] = data.draw(junk)
    try:
        found = lt.verify_proof(proof, root=root)
    except lt.CorruptionError:
        return
    if "text" in found:  # another row of the same bytes is proved by them too
        assert found == {"k": found["k"], "text": f"t{found['k']}"}
        return
    assert {k: v for k, v in found.items() if k != "values"} == {k: v for k, v in right.items() if k != "values"}
    np.testing.assert_array_equal(found.get("values"), right.get("values"))


def test_what_cannot_be_proved_is_said():
    with lt.open("q.lsm", env=MemoryEnv()) as db:
        with db.snapshot() as snap, pytest.raises(lt.KeyNotFoundError, match="no tensor"):
            snap.prove_tensor("w")
        db.tensors.create("w", (4, 4), "float32", chunks=(2, 2))
        db.tensors["w"][:2, :2] = 1
        db.tensors["one"] = np.float64(7)
        db.flush()
        with db.snapshot() as snap:
            with pytest.raises(lt.KeyNotFoundError):
                snap.prove_tensor("w", (1, 1))  # holds the fill value, no row says so
            with pytest.raises(lt.InvalidArgumentError, match="grid"):
                snap.prove_tensor("w", (2, 0))
            assert lt.verify_proof(snap.prove_tensor("one"), root=snap.root())["values"] == 7
            table = db.create_table("t", lt.Schema([lt.Column("k", pa.int64())], primary_key="k"))
            table.upsert({"k": [1, 2]})
            db.flush()
            before = db.snapshot()
            table.delete([2])
            db.compact()
            with before, pytest.raises(lt.InvalidArgumentError, match="merged since"):
                before["t"].prove(1)
