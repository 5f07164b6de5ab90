"""The command line: what it says, what it refuses, and the main job from beginning to end."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow as pa
import pytest
from click.testing import CliRunner

import lsmtensor as lt
from lsmtensor import cli


def call(*words, code=0):
    result = CliRunner().invoke(cli.main, list(words), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def small(tmp_path):
    path = str(tmp_path / "small.lsm")
    with lt.open(path) as db:
        table = db.create_table("docs", lt.Schema([lt.Column("id", pa.int64()), lt.Column("text", pa.string())], primary_key="id"))
        table.insert({"id": [1, 2], "text": ["a", "b"]})
        db.flush()
    return path


def test_help_is_light():
    code = "import sys; from lsmtensor import cli; cli.main(['--help'], standalone_mode=False); print('\\n', *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert not {"numpy", "pyarrow", "numba", "rich", "matplotlib"} & set(done.stdout.splitlines()[-1].split())


def test_every_command_has_help():
    for name, command in cli.main.commands.items():
        assert command.help, name
        assert "Usage" in call(name, "--help")


def test_looking_at_a_database(small):
    said = call("inspect", small)
    assert "docs: 2 rows, key id" in said and "text" in said
    assert json.loads(call("inspect", small, "--json"))["tables"]["docs"]["file_rows"] == 2
    assert "all right" in call("verify", small)
    assert "docs: 1 runs, 2 rows" in call("compact", small)


def test_lists():
    assert "numpy" in call("kernels")
    assert "hnsw" in call("indexes") and "flat" in call("indexes")


def test_refusals_are_one_sentence(tmp_path, small):
    gone = str(tmp_path / "gone.lsm")
    for words in (["inspect", gone], ["verify", gone], ["compact", gone], ["run", "--db", small], ["bench", "ingest", "--set", "wal.snc=group"],
                  ["bench", "ann", "--quick", "--index", "hsnw"], ["report", str(tmp_path)]):  # fmt: skip
        said = call(*words, code=1)
        last = said.strip().splitlines()[-1]
        assert last.startswith("Error: ") and "Traceback" not in said
    assert not (tmp_path / "gone.lsm").exists()
    with lt.open(small) as db:
        assert len(db["docs"]) == 2


def test_specs_keep_their_commas():
    assert cli._words("flat, hnsw(m=8, ef_construction=40) ,") == ("flat", "hnsw(m=8, ef_construction=40)")


def test_bench_and_report(tmp_path):
    out = str(tmp_path / "runs")
    said = call("bench", "ingest", "--quick", "--rounds", "1", "--warmup", "0", "--folder", str(tmp_path / "files"), "--out", out)
    assert "scan / sum in memory" in said.replace("\n", " ")
    call("bench", "ann", "--quick", "--rounds", "1", "--warmup", "0", "--kernel", "numpy", "--index", "flat", "--peers", "none", "--out", out)
    page = tmp_path / "report.html"
    call("report", out, "-o", str(page))
    assert "bench ingest" in page.read_text() and "bench ann" in page.read_text()
    assert "overlap" in call("compare", out, out)


def test_main_job(tmp_path):
    path, out, figure = str(tmp_path / "debian.lsm"), tmp_path / "runs", tmp_path / "figure.png"
    pytest.importorskip("matplotlib")
    said = call("run", "--db", path, "--out", str(out), "--kills", "1", "--seed", "7", "--figure", str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in (out / "run.html").read_text()
    facts = json.loads((out / "run.jsonl").read_text())["facts"]
    assert facts["kills"]["lost"] == 0 and facts["kills"]["acknowledged"] == facts["kills"]["recovered"] > 0
    assert {e["index"] for e in facts["search"]} == {"flat", "hnsw"} and "numpy" in {e["kernel"] for e in facts["search"]}
    assert facts["seconds"] < 60
    # the three lines that it prints do what they say
    lines = said[said.index("import lsmtensor as lt") :]
    shown = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert "_distance" in shown.stdout and "summary" in shown.stdout
    # a second run makes room for itself; a commit of somebody else's is kept
    with lt.open(path) as db:
        db["packages"].delete("adequate")
    assert "commits made after" in call("run", "--db", path, "--out", str(out), code=1)
