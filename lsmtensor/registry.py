"""Names to plug-ins, and the one grammar in which a plug-in is chosen.

``name(key=value, …)``: values are numbers, words, quoted texts or nested specs; a chain is
``shuffle+zstd(level=3)``. A name may be written to disk, so it keeps its meaning for ever.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .errors import DuplicateKeyError, InvalidArgumentError, UnavailableError, UnknownNameError

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z_][\w.\-]*)|(?P<number>[+-]?\d[\w.+\-]*)|(?P<text>'[^']*'|\"[^\"]*\")|(?P<mark>[(),=+]))")


_WORD = re.compile(r"[A-Za-z_][\w.\-]*")
_DEPTH = 16


def near(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'? known: a, b"`` for the message about an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"


@dataclass(frozen=True)
class Spec:
    """A plug-in's name and its parameters; ``str()`` gives the text back."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = ", ".join(f"{k}={_show(v)}" for k, v in self.params.items())
        return f"{self.name}({inside})" if inside else self.name

    @classmethod
    def parse(cls, text: str) -> Spec:
        """The spec of a text; `InvalidArgumentError` says where the grammar was left."""
        chain = parse_chain(text)
        if len(chain) != 1:
            raise InvalidArgumentError(f"{text!r} is a chain of {len(chain)}; give one name(key=value, …)")
        return chain[0]

    @classmethod
    def of(cls, what: str | Mapping[str, Any] | Spec) -> Spec:
        """A spec from its text, from ``{"name": …, **params}``, or as it is."""
        if isinstance(what, Spec):
            return what
        if isinstance(what, str):
            return cls.parse(what)
        if isinstance(what, Mapping) and isinstance(what.get("name"), str):
            return cls(what["name"], {k: v for k, v in what.items() if k != "name"})
        raise InvalidArgumentError(f"{what!r} names no plug-in; give text such as 'hnsw(m=16)', or a dict with 'name'")


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    if _WORD.fullmatch(value) and value not in ("true", "false"):
        return value
    quote = "'" if "'" not in value else '"'
    if quote in value:
        raise InvalidArgumentError(f"{value!r} holds both quotes; a spec's text can hold one kind")
    return f"{quote}{value}{quote}"


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.tokens, at = text, [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise InvalidArgumentError(f"{text!r}: unexpected {text[at:].strip()[0]!r} at position {at}; wanted name(key=value, …)")
            self.tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            at = match.end()
        self.at = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "the end")

    def take(self, kind: str, value: str | None = None) -> str:
        have_kind, have = self.peek()
        if have_kind != kind or (value is not None and have != value):
            wanted = value or f"a {kind}"
            raise InvalidArgumentError(f"{self.text!r}: found {have!r} where {wanted} was wanted; the form is name(key=value, …)")
        self.at += 1
        return have

    def spec(self, depth: int = 0) -> Spec:
        if depth > _DEPTH:
            raise InvalidArgumentError(f"{self.text[:40]!r}…: specs nest at most {_DEPTH} deep")
        name = self.take("word")
        params: dict[str, Any] = {}
        if self.peek() == ("mark", "("):
            self.at += 1
            while self.peek() != ("mark", ")"):
                key = self.take("word")
                self.take("mark", "=")
                if key in params:
                    raise InvalidArgumentError(f"{self.text!r}: {key} is given twice")
                params[key] = self.value(depth)
                if self.peek() == ("mark", ","):
                    self.at += 1
                elif self.peek() != ("mark", ")"):
                    self.take("mark", ")")
            self.at += 1
        return Spec(name, params)

    def value(self, depth: int) -> Any:
        kind, text = self.peek()
        if kind == "number":
            self.at += 1
            try:
                return int(text)
            except ValueError:
                try:
                    return float(text)
                except ValueError:
                    if text.isalnum():
                        return text  # a duration such as 7d is a word
                    raise InvalidArgumentError(f"{self.text!r}: {text!r} is not a number") from None
        if kind == "text":
            self.at += 1
            return text[1:-1]
        spec = self.spec(depth + 1)
        if spec.params:
            return spec
        return {"true": True, "false": False}.get(spec.name, spec.name)


def parse_chain(text: str) -> list[Spec]:
    """The specs of ``a+b(c=1)``, left to right."""
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{text!r} is a {type(text).__name__}; give text such as 'name(key=value)'")
    parser = _Parser(text)
    chain = [parser.spec()]
    while parser.peek()[0] != "end":
        parser.take("mark", "+")
        chain.append(parser.spec())
    return chain


class Registry:
    """Names to factories of one kind. Siblings in ``package`` are loaded on first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._factories: dict[str, Callable[..., Any]] = {}
        self._missing: dict[str, str] = {}
        self._entries: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._loaded = False

    def register(self, name: str, factory: Callable[..., Any] | None = None) -> Any:
        """Add a factory; as a decorator when ``factory`` is left out."""
        if factory is None:
            return lambda decorated: self.register(name, decorated)
        present = self._factories.get(name)
        if present is not None and present is not factory:
            raise DuplicateKeyError(f"{self.kind} {name!r} is registered by {present.__module__} already; choose another name")
        self._factories[name] = factory
        return factory

    def _load(self) -> None:
        with self._lock:  # another thread waits for the names; a sibling that asks while it loads does not
            if self._loaded:
                return
            self._loaded = True
            try:
                self._load_siblings()
            except BaseException:
                self._loaded = False
                raise

    def _load_siblings(self) -> None:
        from importlib.metadata import entry_points

        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            try:
                importlib.import_module(f"{self.package}.{module.name}")
            except ModuleNotFoundError as why:
                if (why.name or "").split(".")[0] == __package__:
                    raise  # a typo of ours must never look like an optional dependency
                self._missing[module.name] = why.name or str(why)
        self._entries = {e.name: e for e in entry_points(group=f"lsmtensor.{self.kind}") if e.name not in self._factories}

    def names(self) -> list[str]:
        self._load()
        return sorted({*self._factories, *self._entries})

    def get(self, name: str) -> Callable[..., Any]:
        self._load()
        if name in self._entries and name not in self._factories:
            # a stranger's plug-in is imported when it is asked for: a broken one breaks no other name
            try:
                self.register(name, self._entries[name].load())
            except ImportError as why:
                raise UnavailableError(f"{self.kind} {name!r} could not be loaded from {self._entries[name].value}: {why}") from why
        if name in self._factories:
            return self._factories[name]
        if name in self._missing:
            raise UnavailableError(f"{self.kind} {name!r} needs the package {self._missing[name]!r}, which is not installed")
        raise UnknownNameError(f"no {self.kind} named {name!r}; {near(name, self.names())}")

    def create(self, what: Any, **extra: Any) -> Any:
        """An instance from a spec; an object that is no spec passes through. Unknown parameters are refused."""
        if not isinstance(what, (str, Mapping, Spec)):
            return what
        spec = Spec.of(what)
        factory = self.get(spec.name)
        known = _parameters(factory)
        for name in spec.params:
            if name not in known:
                raise UnknownNameError(f"{self.kind} {spec.name!r} has no parameter {name!r}; {near(name, set(known) - set(extra))}")
        return factory(**{**spec.params, **{k: v for k, v in extra.items() if k not in spec.params}})


@lru_cache(256)
def _parameters(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The names that a factory takes; kept, for looking at a signature costs more than making most things."""
    parameters = inspect.signature(factory).parameters
    return tuple(n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n != "self")


def register(kind: str, name: str, factory: Callable[..., Any]) -> None:
    """Add a plug-in of the caller's own: ``kind`` is ``index``, ``codec``, ``quantizer``, ``memtable`` or ``compaction``."""
    homes = {"index": "indexes", "codec": "codecs", "quantizer": "quant", "memtable": "memtable", "compaction": "lsm.compaction"}
    if kind not in homes:
        raise UnknownNameError(f"no kind of plug-in named {kind!r}; {near(kind, homes)}")
    importlib.import_module(f"{__package__}.{homes[kind]}").REGISTRY.register(name, factory)
