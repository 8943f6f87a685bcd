"""The examples of the documentation: fenced blocks of Python and shell, with their marks.

A block is run unless the line before its fence is `<!-- example: not run: REASON -->`. A comment that begins with
`<!-- example: setup` holds hidden Python that is run before the block after it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
PYTHON, SHELL = frozenset({"python"}), frozenset({"sh", "bash", "console"})

_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,})(?P<language>[\w+-]*)")
_NOT_RUN = re.compile(r"^ *<!-- example: not run: (.*\S) -->$")
_SETUP = re.compile(r"^ *<!-- example: setup$")
_ASSIGNMENT = re.compile(r"\w+=")


@dataclass(frozen=True)
class Block:
    """A fenced block, or a hidden set-up, whose language is `python`.

    Attributes:
        page: The file.
        line: Number of its first line of code, from 1.
        language: Language after the fence.
        text: Code without the indentation of the fence.
        reason: Reason for not running it; empty if it is run.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str = ""

    @property
    def name(self) -> str:
        """Place for messages: `docs/files.md:12`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks and set-ups of a page, in order."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").split("\n")
    at, reason = 0, ""
    while at < len(lines):
        line, at = lines[at], at + 1
        if match := _NOT_RUN.match(line):
            reason = match[1]
            continue
        if _SETUP.match(line):
            indent, end, language = len(line) - len(line.lstrip()), "-->", "python"
        elif match := _FENCE.match(line):
            indent, end, language = len(match["indent"]), match["marks"], match["language"]
        else:
            reason = ""
            continue
        stop = next(number for number in range(at, len(lines)) if lines[number].strip() == end)
        text = "\n".join(line[indent:] for line in lines[at:stop])
        yield Block(page, at + 1, language, text, reason)
        at, reason = stop + 1, ""


def script(block: Block) -> str:
    """Return the shell code of a block; of a console only the commands, which begin with `$ `."""
    if block.language != "console":
        return block.text
    return "\n".join(line[2:] for line in block.text.split("\n") if line.startswith("$ "))


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the simple commands of a shell block as arguments, without assignments before them."""
    text = script(block).replace("\\\n", " ")
    for line in text.split("\n"):
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if not set(word) <= set("();<>|&"):
                if command or not _ASSIGNMENT.match(word):
                    command.append(word)
            elif command:
                yield command
                command = []
