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


def test_the_worlds_page_names_every_purpose_of_a_draw_with_its_number() -> None:
    page = (ROOT / "docs" / "world.md").read_text(encoding="utf-8")
    told = {name: int(number) for number, name in re.findall(r"^\| (\d+) `([A-Z]+)` \|", page, re.MULTILINE)}
    source = (ROOT / "sim" / "rng.py").read_text(encoding="utf-8")
    drawn = {name: int(number) for name, number in re.findall(r"^([A-Z]+) = (\d+)  #", source, re.MULTILINE)}
    assert told == drawn
    assert len(drawn) >= 20


def test_the_modules_and_tests_that_the_worlds_page_names_exist() -> None:
    page = (ROOT / "docs" / "world.md").read_text(encoding="utf-8")
    modules = set(re.findall(r"`(\w+\.py)`", page))
    assert len(modules) >= 12
    assert [name for name in modules if not (ROOT / "sim" / name).is_file()] == []
