"""What the documents promise exists: every command line parses, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from drive_wm.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")


def command_lines() -> Iterator[list[str]]:
    """The arguments of every drive-wm command in a code block."""
    for name in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", (ROOT / name).read_text(), re.S):
            for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
                words = shlex.split(line, comments=True)
                if words[:1] == ["drive-wm"]:
                    yield words[1:]


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The innermost command, and what is left for it."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no command {words}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path
        return
    for name, child in children.items():
        yield from leaves(child, (*path, name))


@pytest.mark.parametrize("words", list(command_lines()), ids=" ".join)
def test_a_command_of_the_documents_parses(words: list[str]) -> None:
    command, rest = leaf(words)
    command.make_context(words[0], rest)


def test_the_readme_shows_every_command() -> None:
    shown = list(command_lines())
    for path in leaves(typer.main.get_command(app)):
        assert any(tuple(words[:len(path)]) == path for words in shown), f"README.md does not show {' '.join(path)}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), f"{name}: {target}"


def test_the_rooms_of_the_architecture_exist() -> None:
    block = re.search(r"## Rooms\n\n```\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.S)
    assert block
    for line in block[1].splitlines():
        inside = line.startswith("  ")
        for name in re.findall(r"[\w/]+(?:\.py|/)(?=\s)", line):
            assert (ROOT / ("drive_wm" if inside else "") / name).exists(), name


def test_the_quick_start_is_two_commands() -> None:
    """.ci/run executes exactly these."""
    block = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block and len(block[1].splitlines()) == 2 and "drive-wm demo" in block[1].splitlines()[0]


def test_lines_fit() -> None:
    for name in DOCUMENTS:
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            assert len(line) <= 130 or line.startswith("|"), f"{name}:{number} has {len(line)} characters"
