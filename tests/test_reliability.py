"""docs/reliability.md says what was tried, and names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lsmtensor.testing import reliability

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def test_every_test_that_is_named_is_there():
    for name, (_, tests) in reliability.TESTS.items():
        assert tests, name
        for test in tests:
            file, _, function = test.partition("::")
            text = (TESTS / file).read_text()
            assert f"def {function}(" in text if function else "def test_" in text, f"{name}: {test}"


def test_the_page_tells_of_nothing_wrong():
    told = re.findall(r"^\| .* \| [\d,]+ \| (\d+) (?:wrong|violations)", PAGE.read_text(), re.MULTILINE)
    assert len(told) > 20 and set(told) == {"0"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_can_be_made_again(tmp_path):
    made = reliability.write(tmp_path / "page.md", 50, say=lambda line: None)
    assert (tmp_path / "page.md").read_text().count("\n| ") > len(made) and all(outcome.startswith("0 ") for *_, outcome in made)
