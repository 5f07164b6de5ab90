"""tantivy: a search engine in Rust, after Lucene (pip install tantivy)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import Words


class Tantivy(Words):
    name, needs = "tantivy", "tantivy"

    def build(self, texts: list[str], folder: Path) -> None:
        import tantivy

        (folder / "tantivy").mkdir()
        schema = tantivy.SchemaBuilder().add_integer_field("id", stored=True).add_text_field("text").build()
        self.index = tantivy.Index(schema, path=str(folder / "tantivy"))
        writer: Any = self.index.writer(num_threads=1)
        for number, text in enumerate(texts):
            writer.add_document(tantivy.Document(id=number, text=text))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()
        self.searcher = self.index.searcher()

    def search(self, words: str, k: int) -> list[int]:
        plain = "".join(c if c.isalnum() else " " for c in words)  # no operators of its query language
        query = self.index.parse_query(plain.lower(), ["text"])
        return [self.searcher.doc(address)["id"][0] for _, address in self.searcher.search(query, k).hits]
