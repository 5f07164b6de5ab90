"""What keeps measurements honest: journals, drift, A/A runs, data sets with checksums."""

from __future__ import annotations

import json
import types
from collections import Counter

import numpy as np
import pytest

import lsmtensor as lt
from lsmtensor.bench import compare, pace, recall, record, runner, vectors
from lsmtensor.bench.journal import Journal


def counted(calls, stop_at=None):
    """A workload of two cases; sample n of a case is n. Call number ``stop_at`` is broken off by Ctrl-C."""

    def run(state, case):
        calls.append(case)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return {"n": float(calls.count(case))}

    return types.SimpleNamespace(
        __name__="lsmtensor.bench.counted", setup=lambda options: None, cases=lambda state: {"a": {"who": "x"}, "b": {"who": "x"}}, run=run,
        check=lambda state, case, measures: None, dataset=lambda state: {"name": "none", "sha256": "0"},
    )  # fmt: skip


def quiet(text):
    pass


def test_a_run_that_was_broken_off_goes_on(tmp_path):
    journal, options = tmp_path / "counted.journal", runner.Options(rounds=4, warmup=0)
    first = runner.run(counted([], stop_at=6), options, quiet, journal)
    assert first.interrupted and first.records[0]["rounds"] == 2 and first.records[0]["samples"] == {"n": [1.0, 2.0]}
    with open(journal, "a") as cut:
        cut.write('{"samples": {"a"')  # a line that a kill cut off
    calls: list[str] = []
    second = runner.run(counted(calls), options, quiet, journal)
    assert calls == ["a", "b"] * 2 and not second.interrupted and not journal.exists()
    assert [r["samples"]["n"] for r in second.records] == [[1.0, 2.0, 1.0, 2.0]] * 2 and len(second.records[0]["pace_ms"]) == 4


def test_rounds_of_another_run_are_not_taken(tmp_path):
    journal = tmp_path / "counted.journal"
    runner.run(counted([], stop_at=6), runner.Options(rounds=4, warmup=0), quiet, journal)
    calls: list[str] = []
    runner.run(counted(calls), runner.Options(rounds=1, warmup=0, seed=1), quiet, journal)
    assert calls == ["a", "b"]
    with pytest.raises(KeyboardInterrupt):
        runner.run(counted([], stop_at=1), runner.Options(rounds=1, warmup=0), quiet, journal)


def test_a_journal_without_a_path_keeps_rounds_in_memory():
    kept = Journal(None, {})
    kept.add(0, {"a": {"n": 1.0}}, 0.1)
    kept.drop()
    assert kept.count == 1 and kept.paces == [0.1]


def test_the_same_beside_itself(tmp_path):
    calls: list[str] = []
    result = runner.run(counted(calls), runner.Options(rounds=5, warmup=0, twice=True), quiet)
    of = {r["case"]: r["samples"]["n"] for r in result.records}
    # each of a pair is first in every other round
    assert of["a"] == [1, 4, 5, 8, 9] and of["a (again)"] == [2, 3, 6, 7, 10]
    rows = compare.again(result.records)
    assert [row[0] for row in rows] == ["a", "b"] and {row[-1] for row in rows} == {"noise"}


def test_drift_is_said():
    assert pace.drift([1.0, 1.05, 1.02]) is None and pace.drift([3.0]) is None
    said = pace.drift([1.0, 1.0, 1.0, 1.2, 1.2, 1.2])
    assert "20% slower in round 4 than in round 1" in said and "20% slower from the first half to the second" in said
    once = pace.drift([1.0, 1.0, 1.3, 1.0, 1.0, 1.0])
    assert "30% slower in round 3 than in round 1. Cases" in once and pace.pace(1) > 0
    a, b = [{"pace_ms": [1.0, 1.1]}], [{"pace_ms": [2.0, 2.1]}]
    assert "1.95 times as long" in compare.machines(a, b) and compare.machines(a, a) is None and compare.machines([{}], b) is None


def test_a_folder_of_the_run_is_made_and_removed(tmp_path):
    seen = []
    workload = counted([])
    workload.setup = lambda options: seen.append(options.path)
    runner.run(workload, runner.Options(rounds=1, warmup=0, folder=str(tmp_path / "disk")), quiet)
    assert seen[0].parent == tmp_path / "disk" and not seen[0].exists() and (tmp_path / "disk").is_dir()


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_exact_neighbours_by_blocks(metric, monkeypatch):
    rng = np.random.default_rng(0)
    points, queries = rng.integers(-2, 3, (500, 4)).astype(np.float32), rng.standard_normal((7, 4)).astype(np.float32)
    whole = recall.truth(points, queries, 12, metric)
    monkeypatch.setattr(recall, "BLOCK", 37)
    assert np.array_equal(recall.truth(points, queries, 12, metric), whole)
    p, q = points.astype(float), queries.astype(float)
    far = {"ip": -(q @ p.T), "l2": ((q[:, None] - p) ** 2).sum(2), "cosine": -(q @ p.T) / np.maximum(np.linalg.norm(p, axis=1), 1e-300)}[metric]
    near = np.sort(far, 1)[:, :12]
    assert np.allclose(np.take_along_axis(far, whole, 1), near, atol=1e-9)
    assert recall.truth(points[:3], queries, 12, metric).shape == (7, 3)


@pytest.mark.parametrize("name", sorted(vectors.GENERATORS))
def test_generators_repeat(name):
    made, again = (vectors.load(f"{name}(rows=300, dim=16)", 20, 5, seed=3) for _ in range(2))
    assert made.points.shape == (300, 16) and made.queries.shape == (20, 16) and made.true.shape == (20, 5) and made.points.dtype == np.float32
    assert np.array_equal(made.points, again.points) and made.about == again.about and made.about["metric"] == "l2"
    assert vectors.load(f"{name}(rows=300, dim=16)", 20, 5, seed=4).about["sha256"] != made.about["sha256"]


def test_what_generators_are_for():
    hard, easy = (vectors.load(text, 50, 100, 0) for text in ("hard(rows=2000, dim=64)", "hard(rows=2000, dim=64, intrinsic=4)"))

    def contrast(v):
        far = np.sqrt(((v.queries[:, None] - v.points) ** 2).sum(2))
        return float((far.mean(1) / far.min(1)).mean())

    assert contrast(hard) < 1.6 < 4 < contrast(easy)
    moving = vectors.load("drifting(rows=2000, dim=8, speed=5.0)", 200, 1, 0)
    assert (moving.true[:, 0] > 1000).mean() > 0.9, "queries of a stream are of its end"
    tails = vectors.load("heavy_tailed(rows=2000, dim=8)", 1, 1, 0).points
    assert np.abs(tails).max() > 8 * tails.std()


def files(folder, rows):
    """The same rows in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    small = rows.astype(np.uint8)
    head = np.full((len(rows), 1), rows.shape[1], "<i4")
    (folder / "x.fvecs").write_bytes(np.hstack([head.view(np.uint8), rows.astype("<f4").view(np.uint8)]).tobytes())
    (folder / "x.ivecs").write_bytes(np.hstack([head, rows.astype("<i4")]).tobytes())
    (folder / "x.bvecs").write_bytes(np.hstack([head.view(np.uint8), small]).tobytes())
    for ending, values in ((".fbin", rows.astype("<f4")), (".u8bin", small), (".i8bin", rows.astype(np.int8))):
        (folder / f"x{ending}").write_bytes(np.array(rows.shape, "<u4").tobytes() + values.tobytes())
    np.save(folder / "x.npy", rows)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).reshape(-1)), rows.shape[1])
    pq.write_table(pa.table({"id": range(len(rows)), "other": pa.array([[1]] * len(rows)), "v": lists}), folder / "x.parquet")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("LSMTENSOR_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_every_format_gives_the_same(cached):
    rows = np.random.default_rng(0).integers(0, 100, (60, 8))
    files(cached, rows)
    for name in ("x.fvecs", "x.ivecs", "x.bvecs", "x.fbin", "x.u8bin", "x.i8bin", "x.npy", "x.parquet#column=v"):
        made = vectors.load(str(cached / name), 10, 3, 0)
        both = np.concatenate([made.points, made.queries])
        assert np.array_equal(both[np.lexsort(both.T)], rows[np.lexsort(rows.T)]), name
    few = vectors.load(str(cached / "x.fbin#rows=20&metric=ip"), 5, 3, 0)
    assert len(few.points) == 15 and few.metric == "ip"


def test_ann_benchmarks_files(cached):
    h5py = pytest.importorskip("h5py")
    rows = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    with h5py.File(cached / "x.hdf5", "w") as file:
        file["train"], file["test"] = rows[:40], rows[40:]
        file.attrs["distance"] = "angular"
    made = vectors.load(str(cached / "x.hdf5"), 100, 3, 0)
    assert made.metric == "cosine" and np.array_equal(made.points, rows[:40]) and np.array_equal(made.queries, rows[40:])


def test_downloads_are_kept_and_checked(cached):
    path = cached / "x.npy"
    np.save(path, np.ones((30, 4), np.float32))
    url = path.as_uri()
    first = vectors.fetch(url)
    path.unlink()
    assert vectors.fetch(url) == first and vectors.load(url, 5, 2, 0).points.shape == (25, 4)
    with pytest.raises(lt.CorruptionError, match="SHA-256"):
        vectors.load(f"{url}#sha256={'0' * 64}", 5, 2, 0)
    first.write_bytes(first.read_bytes()[:-4] + b"oops")
    with pytest.raises(lt.CorruptionError, match="fetched again"):
        vectors.fetch(url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusterd", "did you mean 'clustered'"), ("uniform(size=3)", "rows, dim, seed"), ("gone.fvecs", "no file"), ("ftp://x/y.npy", "http"),
        ("x.fbin#row=3", "row after '#'"),
    ],
)  # fmt: skip
def test_refusals(text, said, cached):
    with pytest.raises(lt.LsmTensorError, match=said):
        vectors.load(text, 5, 2, 0)


@pytest.mark.parametrize("name", ["x.fvecs", "x.fbin", "x.npy", "x.parquet", "x.hdf5"])
def test_files_that_are_not_what_their_ending_says(name, cached):
    (cached / name).write_bytes(b"\x07\x00\x00\x00 certainly no vectors")
    with pytest.raises(lt.InvalidArgumentError, match="cannot be read"):
        vectors.load(str(cached / name), 5, 2, 0)


def test_long_truths_are_kept(cached, monkeypatch):
    monkeypatch.setattr(vectors, "LONG", 1)
    made = vectors.load("uniform(rows=200, dim=4)", 5, 3, 0)
    kept = list((cached / "cache").glob("truth-*.npy"))
    monkeypatch.setattr(vectors, "truth", lambda *given: pytest.fail("computed again"))
    again = vectors.load("uniform(rows=200, dim=4)", 5, 3, 0)
    assert len(kept) == 1 and np.array_equal(again.true, made.true)


def test_records_hold_the_pace(tmp_path):
    result = runner.run(counted([]), runner.Options(rounds=2, warmup=0), quiet)
    record.write(tmp_path / "x.jsonl", result.records)
    assert all(len(json.loads(line)["pace_ms"]) == 2 for line in (tmp_path / "x.jsonl").read_text().splitlines())


def some_records(**cases):
    """Records as the runner makes them: case to measures to samples."""

    def run(state, case):
        turn[case] += 1
        return {m: float(v[turn[case] - 1]) for m, v in cases[case].items()}

    turn: Counter[str] = Counter()
    workload = counted([])
    workload.cases = lambda state: {c: {"who": "lsmtensor", "rows": int(c.split()[0].replace(",", "")) if c[0].isdigit() else None} for c in cases}
    workload.run = run
    return runner.run(workload, runner.Options(rounds=3, warmup=0), quiet).records


def test_a_report_in_every_form(tmp_path):
    pytest.importorskip("matplotlib")
    from lsmtensor.bench import charts, page

    recalls = {f"hnsw cython ef={ef}": {"qps": [10 / ef, 9 / ef, 11 / ef], "recall@10": [ef / 100] * 3, "read p50 us": [5.0] * 3, "read p99 us": [9.0] * 3} for ef in (10, 20)}
    mine = some_records(**recalls, **{"flat <b>": {"qps": [0.1] * 3, "recall@10": [1.0] * 3}})
    made = charts.of("ann", mine)
    assert [c.title for c in made] == ["ann", "ann: latencies"]
    assert [(s.name, len(s.points)) for s in made[0].series] == [("hnsw cython", 2), ("flat <b>", 1)] and made[1].series[0].points[1][:2] == (pytest.approx(100), 9.0)
    (tmp_path / "x.jsonl").write_text("")
    for ending in (".html", ".md", ".pdf", ".png"):
        page.write(tmp_path / f"r{ending}", mine)
    text = (tmp_path / "r.html").read_text()
    assert text.count("<svg") == 2 and "flat &lt;b&gt;" in text and "flat <b>" not in text and "http" not in text.replace("http://www.w3.org", "")
    assert "| hnsw cython ef=10 | recall@10 | 0.1 |" in (tmp_path / "r.md").read_text()
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(lt.InvalidArgumentError, match=".html, .md"):
        page.write(tmp_path / "r.doc", mine)


def test_charts_of_samples_and_of_sizes():
    from lsmtensor.bench import charts

    (samples,) = charts.of("x", some_records(a={"GB/s": [1, 2, 3]}, b={"GB/s": [100, 200, 0]}))
    assert samples.rows == ["a", "b"] and not samples.log_x and len(samples.series[0].points) == 6
    curves = charts.of("scale", some_records(**{f"{n:,} rows": {"us": [n, n, n]} for n in (10, 100, 1000)}))
    assert curves[0].log_x and curves[0].log_y and [p[:2] for p in curves[0].series[0].points] == [(10, 10), (100, 100), (1000, 1000)]
    assert "<title>100 rows: 100</title>" in charts.svg(curves[0])
    assert charts.of("x", []) == []


def test_runs_of_other_settings_stand_apart():
    from lsmtensor.bench import page

    a = some_records(a={"n": [1, 2, 3]})
    b = [{**r, "config": lt.RunConfig().with_set("wal.sync=none").to_dict(), "config_hash": "other"} for r in some_records(a={"n": [4, 5, 6]})]
    again = some_records(a={"n": [7, 8, 9]})
    made = page.runs([*a, *b, *again])
    assert sorted(title for title, _ in made) == ["counted: none", "counted: wal.sync=none, none"]
    assert next(mine for title, (_, mine) in made if title == "counted: none")[0]["samples"]["n"] == [7, 8, 9]


def test_cases_are_chosen():
    calls: list[str] = []
    result = runner.run(counted(calls), runner.Options(rounds=2, warmup=0, only="^b"), quiet)
    assert calls == ["b", "b"] and [r["case"] for r in result.records] == ["b"]
    with pytest.raises(lt.UnknownNameError, match="there are: a, b"):
        runner.run(counted([]), runner.Options(rounds=1, only="c"), quiet)


def test_curves_of_scale_become_a_page(tmp_path, monkeypatch):
    from lsmtensor.bench import scale, scale_page

    monkeypatch.setattr(scale, "QUICK", (300, 600))
    options = runner.Options(rounds=1, warmup=0, quick=True, folder=str(tmp_path), only="1 threads")
    made = runner.run(scale, options, quiet).records
    assert len(made) == 2 and made[0]["summary"]["recall@10"]["median"] > 0.9 and made[1]["summary"]["bytes stored a row"]["median"] > 128
    with_law = [{**r, "quick": False} for r in made]
    text = scale_page.figures(with_law)
    assert "| | 300 | 600 | as |" in text and "bytes a row |" in text and "| lazy_leveled | 1,000,000,000 |" in text
    assert scale_page.power([10, 100, 1000], [3.0, 30.0, 300.0]) == (pytest.approx(0.3), pytest.approx(1.0))


def test_the_simulator_counts_rows_of_very_many_keys():
    from lsmtensor.bench.simulate import Simulator
    from lsmtensor.lsm import compaction

    def written(keys):
        simulator = Simulator(compaction.create("tiered", lt.RunConfig().compaction), keys, 100)
        for _ in range(20):
            simulator.flush(1000)
        return simulator.result.flushed_rows, simulator.result.live_rows

    assert written(1 << 62) == (pytest.approx(20_000), pytest.approx(20_000))
    assert written(1)[1] == 1 and written(500)[1] == pytest.approx(500, rel=1e-6)


def test_a_recorded_trace_replays_as_it_was(tmp_path):
    """Under the policy that was recorded the replay writes what the engine wrote; the number of keys is found from what merges left."""
    import pyarrow as pa
    from click.testing import CliRunner

    from lsmtensor import cli
    from lsmtensor.bench import trace
    from lsmtensor.lsm import compaction

    settings = ("wal.sync=none", "compaction.policy=leveled", "compaction.level0_runs=2", "compaction.level_bytes=100000", "compaction.trivial_moves=false")
    config, rng, path = lt.RunConfig(background=False).with_set(*settings), np.random.default_rng(0), tmp_path / "x.trace"
    with lt.open(str(tmp_path / "x.lsm"), config=config) as db:
        stop = trace.record(db, path)
        table = db.create_table("t", lt.Schema([lt.Column("k", pa.int64()), lt.Column("v", pa.binary(100))], primary_key="k"), history="none")
        for _ in range(20):
            keys = np.unique(rng.integers(0, 5000, 1000))
            table.upsert({"k": keys, "v": pa.array([rng.bytes(100) for _ in keys], pa.binary(100))})
            db.flush()
        stop()
        table.put(-1, {"v": bytes(100)})
        db.flush()
    events = trace.read(path)
    assert sum(e["event"] == "flush" for e in events) == 20
    found = trace.replay(events, compaction.create("leveled", config.compaction))
    assert 3500 < found.keys < 7000 and found.predicted == pytest.approx(found.measured, rel=0.15) and found.measured > 2
    assert trace.replay(events, compaction.create("tiered", config.compaction)).predicted < found.predicted
    said = CliRunner().invoke(cli.main, ["simulate", "tiered", "--trace", str(path)])
    assert said.exit_code == 0 and "20 flushes" in said.output and "the engine that was recorded wrote" in said.output
    with pytest.raises(lt.InvalidArgumentError, match="there are: t"):
        trace.read(path, "u")
    (tmp_path / "y").write_text("no trace\n")
    with pytest.raises(lt.InvalidArgumentError, match="is no trace"):
        trace.read(tmp_path / "y")


def test_latencies_tell_no_percentile_that_they_cannot_know():
    from lsmtensor.bench import latency

    assert set(latency.percentiles("get", [1e-6] * 200)) == {"get p50 us", "get p90 us"} and latency.percentiles("", [2e-3], "ms") == {"p50 ms": 2.0}
    assert set(latency.percentiles("x", [1.0] * 20_000)) == {"x p50 us", "x p90 us", "x p99 us", "x p99.9 us"}
    assert len(latency.each(lambda i: None, range(7))) == 7


def test_rounds_end_in_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runner.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(runner, "pace", lambda: 0.001)
    workload = counted([])
    run = workload.run
    workload.run = lambda state, case: (now.__setitem__(0, now[0] + 30), run(state, case))[1]
    result = runner.run(workload, runner.Options(rounds=9, warmup=0, minutes=3.5), quiet)
    assert result.records[0]["rounds"] == 3 and not result.interrupted
    now[0] = 0.0
    assert runner.run(workload, runner.Options(rounds=9, warmup=0, minutes=0), quiet).records[0]["rounds"] == 1


def test_what_each_call_did(tmp_path):
    import pyarrow as pa

    from lsmtensor.bench.counted import counted

    with lt.open(str(tmp_path / "x.lsm")) as db:
        table = db.create_table("t", lt.Schema([lt.Column("k", pa.int64()), lt.Column("v", pa.int64())], primary_key="k"))
        table.insert({"k": np.arange(100), "v": np.arange(100)})
        db.flush()
        made = counted(lambda keys: table.get_many(keys), [[1], [2, 3, 400]])
    rows = {(r["call"], r["counter"]): r["amount"] for r in made.to_pylist()}
    assert (rows[0, "keys_found"], rows[1, "keys_found"]) == (1, 2) and rows[0, "seconds"] > 0 and made.schema.names == ["call", "counter", "amount"]


def test_a_run_for_each_value_of_a_setting(tmp_path):
    from click.testing import CliRunner

    from lsmtensor import cli

    command = ["bench", "amplification", "--quick", "--rounds", "1", "--warmup", "0", "--only", "^tiered", "--twice", "--folder", str(tmp_path), "--out", str(tmp_path / "runs")]
    said = CliRunner().invoke(cli.main, [*command, "--vary", "sstable.filter=none,bloom"])
    assert said.exit_code == 0, said.output
    assert "amplification, sstable.filter=none" in said.output and "amplification, sstable.filter=bloom: the same beside itself" in said.output
    kept = list(record.read(tmp_path / "runs"))
    assert [r["config"]["sstable"]["filter"] for r in kept] == ["none", "none", "bloom", "bloom"] and {r["case"] for r in kept} == {"tiered", "tiered (again)"}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("lsmtensor-")]
