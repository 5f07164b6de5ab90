"""The grammar of specs round-trips, and names lead to plug-ins or to a sentence."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsmtensor.errors import DuplicateKeyError, InvalidArgumentError, UnavailableError, UnknownNameError
from lsmtensor.registry import Registry, Spec, near, parse_chain, register

words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,8}", fullmatch=True).filter(lambda w: w not in ("true", "false"))
texts = st.text(max_size=12).filter(lambda t: not ("'" in t and '"' in t))
plain = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), words, texts)
specs = st.recursive(
    st.builds(Spec, words, st.dictionaries(words, plain, max_size=3)),
    lambda inner: st.builds(Spec, words, st.dictionaries(words, st.one_of(plain, inner.filter(lambda s: s.params)), max_size=3)),
    max_leaves=4,
)


@given(specs)
def test_specs_round_trip(spec):
    again = Spec.parse(str(spec))
    assert again == spec
    assert [type(v) for v in again.params.values()] == [type(v) for v in spec.params.values()]


@given(st.lists(specs, min_size=1, max_size=4))
def test_chains_round_trip(chain):
    assert parse_chain("+".join(map(str, chain))) == chain


def test_of_takes_text_dict_and_spec():
    spec = Spec("hnsw", {"m": 16, "metric": "cosine"})
    assert Spec.of("hnsw(m=16, metric=cosine)") == Spec.of({"name": "hnsw", "m": 16, "metric": "cosine"}) == Spec.of(spec) == spec
    assert str(spec) == "hnsw(m=16, metric=cosine)"


@pytest.mark.parametrize(
    "text", ["", " ", "3", "a(", "a(b", "a(b=", "a(b=1", "a(b=1 c=2)", "a(b=1,b=2)", "a b", "a+", "+a", "a(b=3+4)", "a)", "é(", "a(b='x)"]
)
def test_bad_grammar_is_a_sentence(text):
    with pytest.raises(InvalidArgumentError):
        parse_chain(text)


def test_deep_nesting_is_refused_not_a_crash():
    with pytest.raises(InvalidArgumentError, match="16 deep"):
        Spec.parse("a(b=" * 20000)


def test_one_spec_is_no_chain():
    with pytest.raises(InvalidArgumentError, match="chain of 2"):
        Spec.parse("shuffle+zstd")
    with pytest.raises(InvalidArgumentError):
        Spec.of(7)  # type: ignore[arg-type]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package with a good plug-in, one whose third-party module is missing, and a registry."""
    package = tmp_path / "plugs_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("from lsmtensor.registry import Registry\nREGISTRY = Registry('plug', __name__)\n")
    (package / "good.py").write_text(
        "from . import REGISTRY\n@REGISTRY.register('good')\nclass Good:\n    def __init__(self, m=1, *, dim=0):\n        self.m, self.dim = m, dim\n"
    )
    (package / "exotic.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import plugs_for_test

    yield plugs_for_test.REGISTRY
    for name in [n for n in sys.modules if n.startswith("plugs_for_test")]:
        del sys.modules[name]


def test_siblings_are_found_and_made(house):
    assert house.names() == ["good"]
    made = house.create("good(m=3)", dim=8)
    assert (made.m, made.dim) == (3, 8)
    assert house.create(made) is made


def test_mistakes_name_the_near_ones(house):
    with pytest.raises(UnknownNameError, match="no plug named 'goood'; did you mean 'good'"):
        house.get("goood")
    with pytest.raises(UnknownNameError, match="no parameter 'mm'; did you mean 'm'"):
        house.create("good(mm=3)")
    with pytest.raises(UnavailableError, match="no_such_package_at_all"):
        house.get("exotic")
    with pytest.raises(DuplicateKeyError, match="good"):
        house.register("good", dict)
    assert near("x", []) == "known: none"


def test_threads_see_every_name(house):
    seen: list[list[str]] = []
    threads = [threading.Thread(target=lambda: seen.append(house.names())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [["good"]] * 8


def test_a_broken_entry_point_breaks_only_itself(house, monkeypatch):
    from importlib.metadata import EntryPoint

    entries = [EntryPoint("theirs", "no_such_package_at_all:X", "lsmtensor.plug"), EntryPoint("dict", "builtins:dict", "lsmtensor.plug")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)
    assert house.names() == ["dict", "good", "theirs"]
    assert house.get("dict") is dict
    with pytest.raises(UnavailableError, match="theirs"):
        house.get("theirs")


def test_register_refuses_unknown_kinds():
    with pytest.raises(UnknownNameError, match="did you mean 'index'"):
        register("idnex", "mine", dict)


@pytest.mark.parametrize(("kind", "package"), [("index", "indexes"), ("memtable", "memtable"), ("compaction", "lsm.compaction")])
def test_register_reaches_the_rooms(kind, package):
    import importlib

    registry = importlib.import_module(f"lsmtensor.{package}").REGISTRY
    assert isinstance(registry, Registry) and registry.kind == kind
    register(kind, "mine-for-test", dict)
    try:
        assert registry.get("mine-for-test") is dict
    finally:
        del registry._factories["mine-for-test"]
