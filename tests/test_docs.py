"""The documentation keeps its word: its code runs, its commands exist, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mnprobe.cli.main import COMMANDS

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def names(page):
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_to_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_command_in_the_text_exists(page):
    used = set(re.findall(r"^(?: {4}|\$ )mnprobe ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert used <= set(COMMANDS)


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in ("README", "features", "tabletop")], ids=names)
def test_the_code_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    done = subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(blocks)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_of_commands_is_what_the_commands_say():
    done = subprocess.run([sys.executable, "-m", "mnprobe.cli.page"], capture_output=True, text=True, check=True)
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert done.stdout == page, "make it again: .venv/bin/python -m mnprobe.cli.page > docs/cli.md"
