"""Help of every command as one page: `python -m mnprobe.cli.page > docs/cli.md`."""

import contextlib
import io

from mnprobe.cli.main import COMMANDS, main
from mnprobe.core.environment import with_variables

__all__ = ["command_page"]


def command_page() -> str:
    """Markdown with the help text of `mnprobe` and of every command."""
    parts = [
        "# Commands",
        "",
        "Made by `python -m mnprobe.cli.page > docs/cli.md`; a test compares this page with the commands.",
        "",
    ]
    for arguments in ([], *([name] for name in COMMANDS)):
        title = " ".join(["mnprobe", *arguments])
        parts += [f"## {title}", "", "```text", _help(arguments), "```", ""]
    return "\n".join(parts)


def _help(arguments: list[str]) -> str:
    text = io.StringIO()
    with (
        with_variables(COLUMNS="80"),  # help is wrapped at the terminal's width
        contextlib.redirect_stdout(text),
        contextlib.suppress(SystemExit),
    ):
        main([*arguments, "--help"])
    return text.getvalue().strip("\n")


if __name__ == "__main__":
    print(command_page(), end="")
