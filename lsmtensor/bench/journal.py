"""The rounds of a run as they end, kept in a file until the run is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """Rounds so far: those in ``path`` if a run that was the ``same`` (anything that JSON holds) left them there, then those added.

    A line says what the run is, one more each round. A last line that was cut off is no round. Without a path nothing is written.
    """

    def __init__(self, path: Path | None, same: dict[str, Any]) -> None:
        self._path = path
        self.rounds: list[dict[str, dict[str, float]]] = []
        self.paces: list[float] = []
        if path is None:
            return
        head = json.dumps(same, sort_keys=True)
        first, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else [""]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + "\n", encoding="utf-8")
        for line in lines if first == head else []:
            kept = json.loads(line)
            self.add(len(self.rounds), kept["samples"], kept["pace"])

    @property
    def count(self) -> int:
        return len(self.rounds)

    def add(self, number: int, samples: dict[str, dict[str, float]], pace: float) -> None:
        assert number == len(self.rounds)
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as out:
                out.write(json.dumps({"samples": samples, "pace": pace}) + "\n")
        self.rounds.append(samples)
        self.paces.append(pace)

    def drop(self) -> None:
        """Forget the file: the run is whole, or wrong."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
