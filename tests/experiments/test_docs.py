"""What the documents promise is held by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUARD = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")


def known_tests() -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


def test_every_test_that_the_guards_promise_names_exists() -> None:
    named = re.findall(r"`(test_\w+)`", GUARD)
    assert len(named) == len(re.findall(r"\btest_\w+", GUARD)) > 40
    assert set(named) <= known_tests()


def test_every_promise_names_a_test() -> None:
    promised, to_come = GUARD.split("\n## What is still to come\n")
    promises = re.split(r"^- ", promised, flags=re.MULTILINE)[1:]
    assert len(promises) > 25
    assert [promise for promise in promises if "`test_" not in promise] == []
    assert "`test_" not in to_come
