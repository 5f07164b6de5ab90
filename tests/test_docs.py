"""The pages' Python, run: the blocks of a page in order, in one folder, as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["docs/operations.md"]


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    space: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), space)


def _mistakes():
    text = (ROOT / "docs/mistakes.md").read_text()
    setup, *blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    said = re.findall(r"^> (.*)$", text, re.M)
    titles = re.findall(r"^## (.*)$", text, re.M)
    assert len(blocks) == len(said) == len(titles) >= 30
    return [pytest.param(setup, *each, id=title) for title, *each in zip(titles, blocks, said, strict=True)]


@pytest.mark.parametrize(("setup", "mistake", "said"), _mistakes())
def test_a_mistake_gets_the_sentence_on_the_page(setup, mistake, said, tmp_path, monkeypatch):
    import lsmtensor as lt

    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec(setup, space)
    try:
        with pytest.raises(Exception) as caught:  # noqa: B017, PT011 - the sentence is compared below
            exec(mistake, space)
        found = re.sub(r"process \d+", "process N", f"{type(caught.value).__name__}: {caught.value}")
        # names of plug-ins that were added since are no reason to write the page again
        cut = re.compile(r"known: .*")
        assert cut.sub("known:", found) == cut.sub("known:", said)
        assert isinstance(caught.value, (lt.LsmTensorError, IndexError))
    finally:
        space["db"].close()  # type: ignore[attr-defined]
