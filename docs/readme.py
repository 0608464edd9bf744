"""Rewrites numbers, answers and pictures of the pages from the published studies. `make readme` runs it.

    python docs/readme.py

Between the markers of README.md, docs/*.md and reports/*.md (docs/report.md describes them) stands afterwards what the
tables in reports/ say. A picture of a report is its first screen, photographed by a headless Chromium; where there is
none, the picture is left as it is, and a sentence says so. A marker that cannot be followed ends it with code 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mnprobe.analysis.report.publish import PICTURE_OF, pictures, rewritten
from mnprobe.core.errors import MnprobeError
from mnprobe.core.files import sha256_file, whole_file

__all__ = ["BROWSERS", "SCREEN", "browser", "photograph", "rewrite"]

REPOSITORY = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCREEN = (1280, 800)
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars"),
    *("--force-device-scale-factor=1", "--virtual-time-budget=5000"),
)


def browser() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def photograph(report: Path, target: Path, *, program: str) -> None:
    """The first screen of `report` as the PNG file `target`, which says in its text of which report it is.

    Raises OSError where the browser writes none.
    """
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder) / "screen.png"
        size = f"--window-size={SCREEN[0]},{SCREEN[1]}"
        command = [
            program,
            *_FLAGS,
            size,
            f"--user-data-dir={folder}/profile",
            f"--screenshot={taken}",
            report.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        if not taken.is_file():
            raise OSError(f"{program} made no picture of {report} (exit code {done.returncode})")
        about = PngInfo()
        about.add_text(PICTURE_OF, sha256_file(report))
        with Image.open(taken) as picture, whole_file(target) as part:
            colors = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)  # a third of the bytes
            colors.save(part, "PNG", pnginfo=about, optimize=True)


def rewrite(home: Path, *, program: str | None) -> list[str]:
    """Rewrite the pages of the repository at `home`; what was done and left, one sentence each.

    Raises MnprobeError or OSError for a marker that cannot be followed; pages before it are rewritten.
    """
    reports, said = home / "reports", []
    pages = [home / "README.md", *sorted((home / "docs").glob("*.md")), *sorted(reports.rglob("*.md"))]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        new = rewritten(text, reports)
        if new != text:
            page.write_text(new, encoding="utf-8", newline="\n")
            said.append(f"{page.relative_to(home)}: rewritten")
        for name, path in pictures(text):
            report = reports / name / "report.html"
            if not report.is_file():
                said.append(f"{path}: left as it is, the study {name} is not published in {reports.relative_to(home)}/")
            elif program is None:
                said.append(
                    f"{path}: LEFT AS IT IS, there is no Chromium on the PATH ({', '.join(BROWSERS)}) to open {report}"
                )
            else:
                photograph(report, home / path, program=program)
                said.append(f"{path}: photographed from {report.relative_to(home)}")
    return said or ["nothing to change"]


def _main() -> int:
    os.chdir(REPOSITORY)
    try:
        said = rewrite(REPOSITORY, program=browser())
    except (MnprobeError, OSError) as error:
        print(f"docs/readme.py: {error}", file=sys.stderr)
        return 1
    print("\n".join(said))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
