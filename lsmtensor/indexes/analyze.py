"""Text to terms: an analyzer is a tokenizer, stop words, a stemmer; the work on rows is Arrow's, that on words is done once a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..errors import InvalidArgumentError, UnavailableError
from ..registry import Spec

SCORINGS = ("bm25", "bm25+", "bm25l", "tfidf")
# letters and numbers, as in the pattern of `tokens`
WORD, ASCII_WORD = re.compile(r"[^\W_]+"), re.compile(r"[a-z0-9]+")
# what Lucene leaves out of English
ENGLISH = frozenset(
    ["a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with"]
)


@dataclass(frozen=True)
class TextSpec:
    """``text(analyzer=…)``: ``words`` (runs of letters and digits after NFKC and lower case), ``english`` (less stop words) or the name of a Snowball stemmer,
    ``snowball_english`` and so on (extra ``text``); ``ngrams`` up to 3 joins neighbouring words. ``scoring`` with its ``k1``, ``b``, ``delta``."""

    analyzer: str = "words"
    ngrams: int = 1
    scoring: str = "bm25"
    k1: float = 1.2
    b: float = 0.75
    delta: float = 1.0

    @classmethod
    def of(cls, spec: Any) -> TextSpec:
        parsed = Spec.of(spec)
        known = {f.name for f in fields(cls)}
        unknown = set(parsed.params) - known
        if parsed.name != "text" or unknown:
            raise InvalidArgumentError(f"{spec}: give text(…) with some of {', '.join(sorted(known))}")
        given: dict[str, Any] = {name: float(value) if name in ("k1", "b", "delta") else value for name, value in parsed.params.items()}
        made = cls(**given)
        made.check()
        return made

    def __str__(self) -> str:
        return str(Spec("text", {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}))

    def check(self) -> None:
        if self.scoring not in SCORINGS:
            raise InvalidArgumentError(f"text: scoring={self.scoring!r}; give one of {', '.join(SCORINGS)}")
        if self.ngrams not in (1, 2, 3):
            raise InvalidArgumentError(f"text: ngrams={self.ngrams!r}; give 1, 2 or 3")
        if not (self.k1 >= 0 and 0 <= self.b <= 1 and self.delta >= 0):
            raise InvalidArgumentError(f"text: k1={self.k1}, b={self.b}, delta={self.delta}; give k1 and delta of 0 or more, b from 0 to 1")
        self.normal  # noqa: B018 - it raises for what there is not

    @cached_property
    def normal(self) -> Callable[[list[str]], list[str | None]]:
        """What becomes of distinct words; None where a word is left out."""
        if self.analyzer == "words":
            return lambda words: list(words)
        if self.analyzer == "english":
            return lambda words: [None if w in ENGLISH else w for w in words]
        if self.analyzer.startswith("snowball_"):
            language = self.analyzer.removeprefix("snowball_")
            try:
                import Stemmer
            except ImportError as why:
                raise UnavailableError(f"analyzer {self.analyzer!r} wants PyStemmer; install lsmtensor[text]") from why
            if language not in Stemmer.algorithms():
                raise InvalidArgumentError(f"no Snowball stemmer for {language!r}; there are {', '.join(Stemmer.algorithms())}")
            left_out = ENGLISH if language in ("english", "porter") else frozenset()
            # a stemmer is of one thread
            return lambda words: [None if w in left_out else s for w, s in zip(words, Stemmer.Stemmer(language).stemWords(words), strict=True)]
        raise InvalidArgumentError(f"text: analyzer={self.analyzer!r}; give words, english or snowball_LANGUAGE")

    def tokens(self, texts: pa.Array | pa.ChunkedArray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(terms, the row of each token int64, its term int64), rows in order; null texts have none. O(bytes)."""
        import pyarrow.compute as pc

        plain = pc.utf8_lower(pc.utf8_normalize(texts.cast(pa.string()), form="NFKC"))
        lists = pc.split_pattern_regex(plain, pattern=r"[^\pL\pN]+")
        lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        coded = pc.dictionary_encode(pc.list_flatten(lists))
        terms, number = self._numbered(coded.dictionary.to_pylist())
        ids = number[coded.indices.to_numpy(zero_copy_only=False)] if len(coded) else np.empty(0, np.int64)
        rows, ids = rows[ids >= 0], ids[ids >= 0]
        for n in range(2, self.ngrams + 1):
            terms, rows, ids = _joined(terms, rows, ids, n)
        return terms, rows, ids

    def _numbered(self, words: list[str]) -> tuple[list[str], np.ndarray]:
        """(distinct terms, the term of each word or -1)."""
        numbers: dict[str, int] = {}
        made = [-1 if not w or s is None else numbers.setdefault(s, len(numbers)) for w, s in zip(words, self.normal(words), strict=True)]
        return list(numbers), np.array(made, np.int64)

    def query(self, text: str) -> list[str]:
        """The terms of a query, each once: what `tokens` makes of it, without the millisecond that its pattern takes to compile."""
        if text.isascii():
            words = ASCII_WORD.findall(text.lower())
        elif max(text) >= "\u2000":
            # what is a letter out there depends on the year of the Unicode tables
            terms, _, ids = self.tokens(pa.array([text]))
            return [terms[i] for i in dict.fromkeys(ids.tolist())]
        else:
            import pyarrow.compute as pc

            words = WORD.findall(pc.utf8_lower(pc.utf8_normalize(pa.scalar(text, pa.string()), form="NFKC")).as_py())
        if self.analyzer != "words":
            words = [s for s in self.normal(words) if s]
        if self.ngrams > 1:
            words = [" ".join(words[i : i + n]) for n in range(1, self.ngrams + 1) for i in range(len(words) - n + 1)]
        return list(dict.fromkeys(words))

    def question(self, asked: Any, *others: str) -> Question:
        """What a string, or a dict of strings of ``query``, ``must``, ``must_not`` (and ``others``, left alone) asks for."""
        if isinstance(asked, str):
            return Question(tuple(self.query(asked)))
        known = ("query", "must", "must_not", *others)
        if not isinstance(asked, dict) or set(asked) - set(known) or not all(isinstance(v, str) for v in asked.values()):
            raise InvalidArgumentError(f"text={asked!r}; give a string, or a dict of strings with some of {', '.join(known)}")
        must = self.query(asked.get("must", ""))
        terms = dict.fromkeys([*must, *self.query(asked.get("query", ""))])
        return Question(tuple(terms), tuple(must), tuple(self.query(asked.get("must_not", ""))))


class Question(NamedTuple):
    """Terms, of which some must occur, and others that must not."""

    terms: tuple[str, ...]
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()


def _joined(terms: list[str], rows: np.ndarray, ids: np.ndarray, n: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The same and every n neighbouring single words of a row, joined by a space."""
    single = np.array([" " not in t for t in terms], bool)
    words = np.flatnonzero(single[ids])
    w, r = ids[words], rows[words]
    starts = np.flatnonzero(r[: len(r) - n + 1] == r[n - 1 :]) if len(r) >= n else np.empty(0, np.int64)
    grams = np.stack([w[starts + j] for j in range(n)], 1)
    distinct, number = np.unique(grams, axis=0, return_inverse=True)
    made = terms + [" ".join(terms[i] for i in gram) for gram in distinct.tolist()]
    all_rows = np.concatenate([rows, r[starts]])
    all_ids = np.concatenate([ids, number.reshape(-1) + len(terms)])
    order = np.argsort(all_rows, kind="stable")
    return made, all_rows[order], all_ids[order]
