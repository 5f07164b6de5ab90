"""bm25s: scores computed when indexing, in sparse matrices; its Numba path, which is its fastest (pip install bm25s)."""

from __future__ import annotations

from pathlib import Path

from .base import Words


class Bm25s(Words):
    name, needs, compiles = "bm25s numba", "bm25s", True

    def build(self, texts: list[str], folder: Path) -> None:
        import bm25s

        tokens = bm25s.tokenize(texts, stopwords=None, show_progress=False)
        self.index = bm25s.BM25(backend="numba", method="lucene", k1=1.2, b=0.75)
        self.index.index(tokens, show_progress=False)
        self.search("words", 1)

    def search(self, words: str, k: int) -> list[int]:
        import bm25s

        tokens = bm25s.tokenize(words, stopwords=None, show_progress=False)
        ids, scores = self.index.retrieve(tokens, k=k, show_progress=False, n_threads=1)
        return [int(i) for i, s in zip(ids[0], scores[0], strict=True) if s > 0]
