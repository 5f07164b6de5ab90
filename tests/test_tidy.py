"""The house rules that a reader would otherwise have to check by eye."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lsmtensor"
FILES = sorted(PACKAGE.rglob("*.py"))

# low to high; a room imports its own and lower rows only. Rooms in one set do not see each other.
LAYERS: list[set[str]] = [
    {"errors"},
    {"registry"},
    {"config", "metrics", "notebook"},
    {"arrowbytes", "arrowtake", "beside", "cache", "merkle", "recent"},
    {"dtypes"},
    {"convert_tensors"},
    {"convert_sparse"},
    {"convert"},
    {"schema"},
    {"chunked", "keys"},
    {"tensor_args", "evolution"},
    {"env"},
    {"kernels"},
    {"rows"},
    {"pages"},
    {"container"},
    {"codecs", "quant"},
    {"indexes"},
    {"tensor_meta"},
    {"wal", "memtable", "sstable"},
    {"lsm"},
    {"search"},
    {"scanning"},
    {"transfer", "altering"},
    {"table"},
    {"tensor_rows", "exchange"},
    {"tensors"},
    {"transaction", "snapshot", "copies"},
    {"database"},
    {"inspecting"},
    {"testing"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
HEAVY = ("numba", "cupy", "rich", "matplotlib", "pyarrow.compute", "pyarrow.dataset")


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int, bool, bool]]:
    """(dotted name, line, at module level, for types only) of every import in a file; relative ones made absolute."""
    package = ("lsmtensor", *path.relative_to(PACKAGE).parts[:-1])
    found: list[tuple[str, int, bool, bool]] = []

    def visit(node: ast.AST, top: bool, typing: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((a.name, node.lineno, top, typing) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            name = ".".join(p for p in (base, node.module) if p)
            found.extend((f"{name}.{a.name}", node.lineno, top, typing) for a in node.names)
        else:
            inner = top and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                for child in node.body:
                    visit(child, top, True)
                return
            for child in ast.iter_child_nodes(node):
                visit(child, inner, typing)

    visit(ast.parse(path.read_text()), True, False)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file(path):
    name = path.relative_to(ROOT)
    lines = path.read_text().splitlines()
    assert len(lines) <= 500, f"{name} has {len(lines)} lines; 500 at most: split it by what changes together"
    for imported, line, top, typing in imports(path):
        # what is measured beside us may be a pickle; nothing of ours is
        assert name.parts[1:3] == ("bench", "peers") or imported.split(".")[0] not in ("pickle", "dill", "cloudpickle"), f"{name}:{line}: no pickle in the package"
        # a backend is loaded when it is chosen, the laboratory when a command asks for it
        if top and not typing and room_of(path) not in ("bench", "cli") and path.name.split("_")[0] not in ("numba", "cupy"):
            heavy = [h for h in HEAVY if imported == h or imported.startswith(h + ".")]
            assert not heavy, f"{name}:{line}: import {heavy[0]} where it is used, so that a plain import stays quick"


@pytest.mark.parametrize("path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    assert room in LEVEL, f"{room} is new: give it a row in LAYERS"
    for imported, line, _, typing in imports(path):
        parts = imported.split(".")
        if parts[0] != "lsmtensor" or typing:
            continue
        other = parts[1] if len(parts) > 1 else ""
        if other == room or (other not in LEVEL and other in ("__version__", "")):
            continue
        where = f"{path.relative_to(ROOT)}:{line}"
        assert other in LEVEL, f"{where}: import {imported} from the module that defines it"
        assert LEVEL[other] < LEVEL[room], f"{where}: {room} may not import {other}, which is not below it"


def test_import_is_light():
    code = "import sys, lsmtensor; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numba", "cupy", "numpy", "pyarrow", "rich", "lsmtensor.database"} & set(loaded)


def test_first_impressions_by_what_is_loaded(tmp_path):
    """Counted, not timed: modules beside numpy and pyarrow, after the import and after a database was opened, written to and asked for a row."""
    code = (
        "import sys, numpy, pyarrow as pa; before = set(sys.modules); import lsmtensor as lt; print(len(set(sys.modules) - before));"
        f"db = lt.open({str(tmp_path / 'x.lsm')!r}); schema = lt.Schema([lt.Column('k', pa.string()), lt.Column('v', pa.int64())], primary_key='k');"
        "t = db.create_table('t', schema); t.put('a', {'v': 1}); assert t.get('a') == {'k': 'a', 'v': 1}; db.close(); print(*(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    loaded = set(said[1].split())
    assert int(said[0]) <= 5 and len(loaded) <= 260, "a plain import or a first open loads more than it did: import it where it is used"
    assert not {"numba", "cupy", "matplotlib", "rich", "pandas", "scipy", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet"} & loaded


def test_public_names_are_there():
    import lsmtensor as lt

    missing = [name for name in lt.__all__ if not hasattr(lt, name)]
    assert not missing and lt.__version__ == "0.1.0" and set(dir(lt)) >= set(lt.__all__)
    with pytest.raises(AttributeError):
        lt.no_such_name  # noqa: B018
