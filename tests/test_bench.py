"""The laboratory: data, runner, records, the count of killed commits, reports."""

from __future__ import annotations

import json
import random
import types

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor import kernels
from lsmtensor.bench import WORKLOADS, compare, crash, datasets, main_job, page, recall, record, runner, words


@pytest.fixture(scope="module")
def data():
    return datasets.debian()


def test_bundled_data(data):
    assert len(data) == 4000 and data.embeddings.shape == (4000, 384) and data.embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(data.embeddings, axis=1), 1, atol=1e-3)
    names = set(data.packages.column("name").to_pylist())
    assert len(names) == 4000
    edges = data.edges.to_pylist()
    assert {e["src"] for e in edges} | {e["dst"] for e in edges} <= names
    assert data.describe()["sha256"] == data.checksum and len(data.checksum) == 64


def test_a_cut_is_closed_under_dependency(tmp_path, data, monkeypatch):
    target = tmp_path / "part.parquet"
    kept = datasets.cut(data, target, rows=300)
    monkeypatch.setattr(datasets, "BUNDLED", target)
    part = datasets.debian()
    assert 0 < len(part) == kept <= 300
    names = set(part.packages.column("name").to_pylist())
    needed = {e["dst"] for e in data.edges.to_pylist() if e["src"] in names and e["kind"] != "recommends"}
    assert needed <= names
    where = dict(zip(data.packages.column("name").to_pylist(), range(len(data)), strict=True))
    rows = [where[n] for n in part.packages.column("name").to_pylist()]
    assert np.array_equal(part.embeddings, data.embeddings[rows])


def test_full_data_set_lacking_files(tmp_path):
    with pytest.raises(lt.InvalidArgumentError, match="lacks packages.parquet"):
        datasets.debian(tmp_path)


def test_recall():
    points = np.eye(4, dtype=np.float32)
    true = recall.truth(points, np.array([[1, 0.5, 0.2, 0.1]], np.float32), 3)
    assert true.tolist() == [[0, 1, 2]]
    assert recall.recall(np.array([[2, 0, 3]]), true) == pytest.approx(2 / 3)


def double(log, wrong=False):
    """A workload that counts: `a` is twice as fast as `b`."""
    rates = {"a": 4.0, "b": 2.0, "c": 1.0}

    def check(state, case, measures):
        assert not (wrong and case == "b"), "b was wrong"

    return types.SimpleNamespace(
        __name__="lsmtensor.bench.double", setup=lambda options: log.append("setup"), teardown=lambda state: log.append("teardown"),
        cases=lambda state: {c: {"who": "x"} for c in rates}, check=check, dataset=lambda state: {"name": "none", "sha256": "0"},
        run=lambda state, case: log.append(case) or {"GB/s": rates[case]},
        ratios=lambda state: [runner.Ratio("a / best", "a", ("b", "c"), "GB/s")],
    )  # fmt: skip


def test_runner_alternates_and_takes_ratios():
    log: list[str] = []
    result = runner.run(double(log), runner.Options(rounds=3, warmup=1), lambda text: None)
    assert log == ["setup", *"abc" * 4, "teardown"]
    assert result.ratios["a / best"]["samples"] == [2.0, 2.0, 2.0]
    first = result.records[0]
    assert first["samples"] == {"GB/s": [4.0] * 3} and first["summary"]["GB/s"]["median"] == 4.0
    for key in ("config", "config_hash", "code", "machine", "packages", "dataset", "seed", "rounds", "warmup", "started"):
        assert key in first
    assert lt.RunConfig.from_dict(first["config"]).hash() == first["config_hash"]


def test_a_wrong_result_gives_no_figure():
    log: list[str] = []
    with pytest.raises(AssertionError, match="b was wrong"):
        runner.run(double(log, wrong=True), runner.Options(rounds=1, warmup=0), lambda text: None)
    assert log[-1] == "teardown"


def test_records_come_back(tmp_path):
    result = runner.run(double([]), runner.Options(rounds=2), lambda text: None)
    record.write(tmp_path / "runs" / "double.jsonl", result.records)
    read = list(record.read(tmp_path / "runs"))
    assert read == json.loads(json.dumps(result.records))
    assert {row[0] for row in compare.rows(read, read)} == {"a", "b", "c", "ratio: a / best"}
    assert "bench double" in page.html(read)
    (tmp_path / "runs" / "bad.jsonl").write_text("{}\n")
    with pytest.raises(lt.InvalidArgumentError, match="bad.jsonl, line 1 is not a record"):
        list(record.read(tmp_path / "runs"))
    with pytest.raises(lt.InvalidArgumentError, match="holds no records"):
        list(record.read(tmp_path))


def test_workloads_have_their_parts():
    for name in WORKLOADS:
        module = runner.load(name)
        assert all(callable(getattr(module, part)) for part in ("setup", "cases", "run", "check", "dataset"))
    with pytest.raises(lt.UnknownNameError, match="did you mean 'ingest'"):
        runner.load("ingst")


def edge_rows(*rows):
    return pa.table([list(c) for c in zip(*rows, strict=True)], names=["src", "dst", "kind", "commit"])


EDGES = pa.table([["a", "a", "b"], ["b", "c", "c"], ["depends"] * 3], schema=datasets.EDGES)
WHOLE_A = (("a", "b", "depends", 1), ("a", "c", "depends", 1))
WHOLE_B = (("b", "c", "depends", 2),)


@pytest.mark.parametrize(
    ("rows", "acknowledged", "counts"),
    [
        ((*WHOLE_A, *WHOLE_B), {"a": [1], "b": [2]}, (2, 2, 0, 0, 0)),
        ((*WHOLE_A, *WHOLE_B), {"a": [1]}, (1, 1, 0, 0, 1)),  # b committed, and its writer died before saying so
        (WHOLE_A, {"a": [1], "b": [2]}, (2, 1, 1, 0, 0)),  # an acknowledged commit is gone
        ((*WHOLE_A[:1], *WHOLE_B), {"a": [1], "b": [2]}, (2, 1, 1, 1, 0)),  # half of one
        (WHOLE_A + WHOLE_B, {"a": [1, 7], "b": [2]}, (3, 1, 2, 0, 0)),  # the older of two commits is what is there
        ((("a", "b", "depends", 1), ("a", "c", "depends", 7), *WHOLE_B), {"a": [1], "b": [2]}, (2, 1, 1, 1, 1)),  # two mixed
    ],
)
def test_judging_what_came_back(rows, acknowledged, counts):
    judged = crash.judge(edge_rows(*rows), EDGES, acknowledged)
    assert tuple(judged[k] for k in ("acknowledged", "recovered", "lost", "torn", "in_doubt")) == counts


def test_acknowledgements_are_whole_lines(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"1 a\n2 b\n3 a\n4 c")
    assert crash.acknowledgements(log) == {"a": [1, 3], "b": [2]}


def test_a_killed_writer(tmp_path, data):
    path, log = str(tmp_path / "k.lsm"), tmp_path / "log"
    columns = [lt.Column(n, pa.string()) for n in ("src", "dst", "kind")]
    with lt.open(path) as db:
        db.create_table(crash.TABLE, lt.Schema([*columns, lt.Column("commit", pa.int64())], primary_key=("src", "dst", "kind")))
    kills = list(crash.kills(path, None, data.edges, log, rounds=2, seed=random.randrange(1 << 30)))
    assert kills[-1].acknowledged >= kills[0].acknowledged > 0
    assert all(k.recovered == k.acknowledged and k.lost == k.torn == 0 and k.in_doubt <= n for n, k in enumerate(kills, 1))


def test_room_is_made_only_over_an_own_run(tmp_path):
    path = str(tmp_path / "x.lsm")
    main_job.make_room(path)
    (tmp_path / "x.lsm").mkdir()
    (tmp_path / "x.lsm" / "thesis.txt").write_text("mine")
    with pytest.raises(lt.NotADatabaseError, match="did not make it"):
        main_job.make_room(path)
    other = str(tmp_path / "other.lsm")
    with lt.open(other) as db:
        table = db.create_table("t", lt.Schema([lt.Column("id", pa.int64())], primary_key="id"))
    with pytest.raises(lt.NotADatabaseError, match="did not make it"):
        main_job.make_room(other)
    with lt.open(other) as db:
        db.tag(main_job.BEGUN)
        db.tag(main_job.ENDED)
        db["t"].put(1)
    with pytest.raises(lt.NotADatabaseError, match="commits made after"):
        main_job.make_room(other)
    with lt.open(other) as db:
        db.tag(main_job.ENDED)
        with pytest.raises(lt.LockedError):
            main_job.make_room(other)
    main_job.make_room(other)
    assert not (tmp_path / "other.lsm").exists() and table is not None


def test_words():
    assert words.size(1234567) == "1.2 MB" and words.size(12) == "12 B"
    assert words.duration(2e-5) == "20 us" and words.duration(0.0123) == "12.3 ms" and words.duration(2.5) == "2.5 s"
    assert words.number(12345.6) == "12,346" and words.number(0.1234) == "0.123"


def test_bench_kernels_compares_right_answers_only(monkeypatch):
    workload = runner.load("kernels")
    state = workload.setup(runner.Options(quick=True, kernels=(kernels.choose().backend, "numpy"), peers=()))
    try:
        ours = next(iter(state.isas))
        named = {f"{kind}, {ours}" for kind in state.kinds if (kind, ours) in state.contenders}
        assert "read" in workload.cases(state) and {r.ours for r in workload.ratios(state)} <= named
        for case in ("read", *named, "cached, numpy"):
            measures = workload.run(state, case)
            workload.check(state, case, measures)
            assert all(v > 0 for m, v in measures.items() if m != "wrong")
        right = state.contenders["scan", ours]
        monkeypatch.setitem(state.contenders, ("scan", ours), lambda: right() * np.float32(1.01))
        with pytest.raises(AssertionError, match=f"scan, {ours}"):
            workload.check(state, f"scan, {ours}", workload.run(state, f"scan, {ours}"))
    finally:
        workload.teardown(state)


def records_of(**samples):
    return [{"workload": "w", "case": "c", "samples": samples}]


def test_compare_tells_a_difference_from_noise():
    rng = np.random.default_rng(0)
    a, again, faster = (rng.normal(mean, 5, 15).tolist() for mean in (100, 100, 130))

    def verdict(x, y):
        return compare.rows(records_of(rate=x), records_of(rate=y))[0][-1]

    assert verdict(a, again) == "noise" and verdict(a, faster) == "B is larger" and verdict(faster, a) == "B is smaller"
    assert verdict(a, a) == "same" and verdict(a[:2], faster[:2]).startswith("too few") and verdict([0.0] * 5, [1.0] * 5) == "B is not zero"
    low, high = compare.interval(a, faster)
    assert 1.2 < low < 1.3 < high < 1.4 and compare.interval(a, faster) == (low, high)
    assert compare.rows(records_of(rate=a, wanted=[1.0]), records_of(other=a)) == []


def test_compare_is_right_about_as_often_as_it_says():
    """Of A/A pairs, which differ by noise alone, about 5% are called different."""
    rng = np.random.default_rng(1)
    called = sum(not (low <= 1 <= high) for low, high in (compare.interval(rng.normal(100, 5, 9), rng.normal(100, 5, 9)) for _ in range(200)))
    assert called <= 24


@pytest.mark.parametrize("name", ["db-bench", "hybrid", "mixed", "recovery", "sparse", "streaming", "ycsb"])
def test_a_workload_runs_and_leaves_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = runner.run(runner.load(name), runner.Options(rounds=1, warmup=0, quick=True), lambda text: None)
    assert len(result.records) >= 2 and all(np.isfinite(v) for r in result.records for s in r["samples"].values() for v in s)
    assert not list(tmp_path.iterdir())


def test_zipfian_ranks_have_zipfian_shares():
    from lsmtensor.bench import ycsb

    drawn = ycsb.zipfian(1000, 200_000, np.random.default_rng(0))
    share = np.bincount(drawn, minlength=1000) / len(drawn)
    want = (1.0 + np.arange(1000)) ** -0.99
    assert drawn.min() == 0 and drawn.max() <= 999 and np.abs(share - want / want.sum()).max() < 0.004
    assert len({ycsb.key(i) for i in range(5000)}) == 5000 and len(ycsb.key(7)) == 16


def test_an_operation_that_waited_counts_from_when_it_was_due():
    import time

    from lsmtensor.bench import latency

    taken = latency.due(lambda number: time.sleep(0.1) if number == 0 else None, rate=100, seconds=0.1)
    assert len(taken) == 10 and taken[0] >= 0.1 and taken[1] >= 0.085 and taken[1] > taken[5]
