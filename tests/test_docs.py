"""The documents: what they point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from curricle.analysis.asked.questions import QUESTIONS

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def anchors(page: Path) -> set[str]:
    """Headings as GitHub makes links of them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and to.suffix == ".md" and anchor not in anchors(to)):
            broken.append(link)
    assert not broken


def test_every_question_is_in_the_page_of_findings_with_the_file_that_answers_it() -> None:
    rows = [line.split("|") for line in (ROOT / "docs/findings.md").read_text().splitlines() if line.startswith("| `")]
    files = {cells[1].strip(" `"): re.findall(r"`(\w+\.py)`", cells[-2]) for cells in rows if len(cells) == 6}
    assert set(QUESTIONS) <= set(files)
    for question in QUESTIONS:
        assert files[question], question
        for name in files[question]:
            assert (ROOT / "curricle/analysis" / name).is_file(), f"{question}: {name}"
