"""What README and docs show is what happens: every transcript in them is run, and its output compared."""

import re

import pytest
from transcripts import PAGES, ROOT, TRANSCRIPT, output_of

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def transcripts() -> list[tuple[str, str, str]]:
    return [(page.name, script, output) for page in PAGES for script, output in TRANSCRIPT.findall(page.read_text())]


def masked(text: str) -> str:
    """Without plan fingerprints: they change with the machine's processor and libraries, as they should."""
    return re.sub(r"plan [0-9a-f]{16}", "plan ...", text.strip())


@pytest.mark.parametrize(("page", "script", "shown"), transcripts(), ids=lambda value: str(value).split("\n")[0][:40])
def test_a_transcript_is_true(page, script, shown):
    assert masked(output_of(script)) == masked(shown), f"{page} is stale: run `uv run python tests/transcripts.py`"


def test_readme_shows_the_explanations():
    assert {script for page, script, _ in transcripts() if page == "README.md"} >= {"examples/split.py", "examples/veto.py"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_the_page_is_python(page):
    for number, block in enumerate(PYTHON.findall(page.read_text())):
        compile(block, f"{page.name}, block {number}", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("module", ["hooks.py", "provider.py"])
def test_the_tutorial_is_the_toy_verbatim(module):
    toy = (ROOT / "examples" / "toy" / "src" / "turnout_toy" / module).read_text()
    assert toy.strip() in (ROOT / "docs" / "write-a-plugin.md").read_text()
