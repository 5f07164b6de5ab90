"""The command line: what it says, what it refuses, and the main job from beginning to end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time

import pyarrow as pa
import pytest
from click.testing import CliRunner
from rich.console import Console

import lsmtensor as lt
from lsmtensor import cli
from lsmtensor.bench import show


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
    assert "0 damaged files" in call("scrub", small, "--rate", "0")
    assert "0 losses" in call("repair", small, f"{small}-repaired")
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
    assert "same" in call("compare", out, out)


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


def test_inspect_of_every_kind_of_file(tmp_path):
    import numpy as np

    from lsmtensor.inspecting import KINDS

    path = tmp_path / "db.lsm"
    with lt.open(path, config=lt.RunConfig().with_set("index.min_rows=10")) as db:
        schema = lt.Schema([lt.Column("id", pa.string()), lt.Column("v", lt.tensor("float32", (4,)))], primary_key="id")
        docs = db.create_table("docs", schema, indexes={"v": "hnsw(m=8, quant=none)"})
        docs.insert({"id": [f"k{i:03}" for i in range(100)], "v": np.ones((100, 4), np.float32)})
        db.compact()
        docs.delete("k007")
        number = db["docs"]._view().table.state.id
    files = {"db": path, "manifest": path / "CURRENT", "sst": next(path.glob("sst/*.arrow")), "wal": max(path.glob("wal/*")), "index": next(path.glob("sst/*.hnsw"))}
    said = {kind: json.loads(call("inspect", kind, str(file), "--json")) for kind, file in files.items()}
    assert set(said) == set(KINDS) and all(value["kind"] == kind for kind, value in said.items())
    assert said["db"]["columns"]["docs"]["v"] == "tensor(float32, (4,))"
    assert said["manifest"]["tables"][0]["runs"][0]["rows"] == 100 and "create_table" in {o for e in said["manifest"]["edits"] for o in e["ops"]}
    batch = said["sst"]["batches"][0]
    assert bytes.fromhex(batch["first_key"]).startswith(b"k000") and batch["rows"] == 100 and said["sst"]["filter"]["bytes"] > 0
    assert said["wal"]["sealed"] and said["wal"]["torn_bytes"] == 0
    record = said["wal"]["records"][-1]
    assert record["version"] == said["db"]["version"] and record.get("rows", {str(number): 1}) == {str(number): 1}
    assert said["index"]["arrays"] and sum(a["bytes"] for a in said["index"]["arrays"].values()) < said["index"]["bytes"]
    for kind, file in files.items():
        assert call("inspect", str(file)).strip()
        other = "wal" if kind != "wal" else "sst"
        assert f"is of kind {kind}" in call("inspect", other, str(file), code=1)
    assert json.loads(call("inspect", "manifest", str(path), "--json")) == said["manifest"] | {"path": f"{path}/CURRENT"}
    # damage is said, with its place
    data = bytearray(files["sst"].read_bytes())
    data[600] ^= 1
    files["sst"].write_bytes(data)
    assert "000" in call("inspect", str(files["sst"]), code=1)
    assert "no file of a database" in call("inspect", str(tmp_path / "x.txt"), code=1)
    assert "not there" in call("inspect", str(path / "wal" / "999999.wal"), code=1)


def test_tables_in_and_out(small, tmp_path):
    out, fresh = str(tmp_path / "docs.csv"), str(tmp_path / "fresh.lsm")
    assert "2 rows" in call("export", small, "docs", out)
    assert "docs: 2 rows" in call("import", fresh, "docs", out, "--key", "id", "--sorted")
    with lt.open(small, mode="r") as a, lt.open(fresh, mode="r") as b:
        assert a["docs"].to_arrow() == b["docs"].to_arrow()
    assert "2 rows" in call("export", small, "docs", str(tmp_path / "ids.parquet"), "--columns", "id", "--version", "2")
    assert "no table" in call("import", fresh, "other", out, code=1).lower()
    assert "not a column" in call("import", fresh, "other", out, "--key", "nothing", code=1)
    with lt.open(fresh, mode="r") as b:
        assert b.tables == ["docs"]


def test_copies(small, tmp_path):
    copy, folder, back = (str(tmp_path / n) for n in ("copy.lsm", "backups", "back.lsm"))
    call("checkpoint", small, copy)
    assert "backup 1 of version 2, 1 of 1 files" in call("backup", small, folder)
    assert "backup 2 of version 2, 0 of 1 files" in call("backup", small, folder)
    assert call("restore", folder).splitlines() == ["1: version 2", "2: version 2"]
    assert "version 2" in call("restore", folder, back)
    for path in (copy, back):
        with lt.open(path, mode="r") as db:
            assert db["docs"].get(2)["text"] == "b"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    assert "_LSMTENSOR_COMPLETE" in call("completion", shell)
    asked = {"_LSMTENSOR_COMPLETE": "bash_complete", "COMP_WORDS": "lsmtensor ins", "COMP_CWORD": "1"}
    code = "from lsmtensor.cli import main; main(prog_name='lsmtensor')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked})
    assert done.stdout.strip() == "plain,inspect"


def test_what_takes_long_is_told_on_a_terminal():
    said = io.StringIO()
    with show.working("compact x.lsm", Console(file=said, force_terminal=True, width=80), after=0.0):
        while "compact x.lsm: 0 s" not in said.getvalue():
            time.sleep(0.01)
    quiet = io.StringIO()
    with show.working("compact x.lsm", Console(file=quiet), after=0.0):
        time.sleep(0.01)
    assert quiet.getvalue() == ""


def test_the_command_is_a_module_too():
    made = subprocess.run([sys.executable, "-m", "lsmtensor", "completion", "bash"], capture_output=True, text=True, check=True)
    assert "_LSMTENSOR_COMPLETE" in made.stdout
