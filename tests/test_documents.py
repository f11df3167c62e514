"""Documents lead where they say, and the list of decisions has all of them."""

import re
from pathlib import Path

import pytest

from data_prep.settings_file import load_settings
from pipeline.settings.run import RunSettings
from tests.settings_page import PAGE
from tests.settings_page import page as settings_page

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs" / "decisions"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(document: Path) -> set[str]:
    """Name the headings of a document as GitHub does: letters, digits, spaces as dashes."""
    headings = re.findall(r"^#+ (.*)", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text()):
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_each_decision_stands_in_their_list() -> None:
    listed = (DECISIONS / "README.md").read_text()
    for page in set(DECISIONS.glob("*.md")) - {DECISIONS / "README.md"}:
        for heading in re.findall(r"^## (.*)", page.read_text(), re.MULTILINE):
            assert f"- [{heading}]({page.name}#" in listed


def test_the_page_of_settings_is_that_of_the_settings() -> None:
    """After a change of settings: python -m tests.settings_page."""
    assert PAGE.read_text() == settings_page()


def test_every_setting_has_a_meaning() -> None:
    assert not re.findall(r"^\| `(\w+)` .*\|  \|$", settings_page(), re.MULTILINE)


@pytest.mark.parametrize("document", ["README.md", "docs/networks.md", "docs/study.md", "docs/training.md"])
def test_the_settings_that_a_document_shows_are_read(document: str, tmp_path: Path) -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        rest = "" if "sources:" in example else "name: x\ndata: {sources: [{kind: sample}]}\n"
        (tmp_path / "x.yaml").write_text(rest + example)
        load_settings(tmp_path / "x.yaml", RunSettings)
