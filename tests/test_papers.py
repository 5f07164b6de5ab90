"""The artifacts of papers/: their claims are well formed, their pages are those of their records, and small runs confirm them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAPERS = ROOT / "papers"
ARTIFACTS = sorted(p.parent.name for p in PAPERS.glob("*/run.py"))


@pytest.fixture(scope="module")
def lab():
    spec = importlib.util.spec_from_file_location("lsmtensor_papers_lab", PAPERS / "lab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ARTIFACTS)
def test_an_artifact_is_whole_and_its_verdicts_are_those_of_its_record(name, lab):
    folder = PAPERS / name
    for part in ("README.md", "table.md", "figure.svg", "verdicts.md"):
        assert (folder / part).stat().st_size > 200, f"{name}/{part}"
    head, rows = lab.load(folder / "results.jsonl")
    assert head["scale"] == "laptop" and head["artifact"] == name and head["machine"]["cpu"] and rows
    listed = lab.claims(folder / "claims.toml")
    text = (folder / "verdicts.md").read_text()
    for claim in listed:
        assert f"**{claim['id']}: {claim['status']}**" in text, f"{name}: {claim['id']} is not recorded as {claim['status']}; make -C papers redraw"
    assert f"[{name}]" in (PAPERS / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ARTIFACTS)
def test_small_runs_confirm_the_claims(name, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(PAPERS / name / "run.py"), "--scale", "smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_verdict_is_right_only_as_recorded(lab):
    claim = {"id": "x", "fact": "f", "expected": 1.0, "tolerance": 0.1, "status": "holds"}
    assert lab.judge(claim, {"f": 1.05}, "laptop")["right"]
    assert not lab.judge(claim, {"f": 1.2}, "laptop")["right"]
    assert not lab.judge(claim, {"f": float("nan")}, "laptop")["right"]
    failing = {**claim, "status": "fails", "reason": "why"}
    assert lab.judge(failing, {"f": 1.2}, "laptop")["right"] and not lab.judge(failing, {"f": 1.0}, "laptop")["right"]
    assert lab.judge({**claim, "scales": ["full"]}, {}, "laptop")["verdict"] == "untried"
    assert lab.judge({**claim, "smoke": {"tolerance": 0.5}}, {"f": 1.4}, "smoke")["verdict"] == "holds"
    assert lab.judge({"id": "y", "fact": "f", "at_least": 2, "at_most": 3, "status": "holds"}, {"f": 3.1}, "full")["verdict"] == "fails"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('status = "holds"', "says nothing that could fail"), ('status = "fails"\nexpected = 1\ntolerance = 1', "without a reason"),
        ('status = "maybe"\nat_least = 1', "holds or fails"), ('status = "holds"\nat_leest = 1', "unknown"),
    ],
)  # fmt: skip
def test_malformed_claims_are_refused(change, said, lab, tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(f'[[claim]]\nid = "a"\nsentence = "s"\nsource = "s"\ncommand = "c"\nfact = "f"\n{change}\n')
    with pytest.raises(ValueError, match=said):
        lab.claims(path)


def test_rows_come_back_and_tables_are_drawn(lab, tmp_path):
    rows = [{"a": 1, "b": np.float32(0.25)}, {"a": None, "c": "x"}]
    lab.save(tmp_path / "r.jsonl", {"scale": "smoke"}, rows)
    head, back = lab.load(tmp_path / "r.jsonl")
    assert head == {"scale": "smoke"} and back == [{"a": 1, "b": 0.25}, {"a": None, "c": "x"}]
    assert lab.grid(back).splitlines() == ["| a | b | c |", "|---|---|---|", "| 1 | 0.25 |  |", "|  |  | x |"]
    assert lab.exponent([1, 10, 100], [2, 200, 20000]) == pytest.approx(2)


def test_generated_rows_are_repeatable_and_have_a_falling_spectrum(lab):
    rows = lab.spectrum(2000, 32, seed=3)
    assert rows.shape == (2000, 32) and rows.dtype == np.float32 and np.array_equal(rows, lab.spectrum(2000, 32, seed=3))
    spread = rows.std(0)
    assert spread[0] > 2 * spread[16]


def test_an_interrupted_run_keeps_the_jobs_that_it_did(lab, tmp_path):
    ran = []

    def job(name, fails=False):
        def run():
            ran.append(name)
            yield {"name": name}
            if fails:
                raise KeyboardInterrupt

        return run

    path = tmp_path / "results.jobs"
    with pytest.raises(KeyboardInterrupt):
        list(lab._jobs({"a": job("a"), "b": job("b", fails=True)}, path, ["x"]))
    rows = list(lab._jobs({"a": job("a"), "b": job("b")}, path, ["x"]))
    assert ran == ["a", "b", "b"] and rows == [{"name": "a"}, {"name": "b"}]
    assert list(lab._jobs({"a": job("a")}, path, ["another seed"])) == [{"name": "a"}] and ran[3:] == ["a"]
