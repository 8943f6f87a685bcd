"""MkDocs hooks that include files and rewrite links to files outside docs/.

Pages link to every file of the repository by its relative path, so that the links also work in a browser of the
repository. The site contains only the files of docs/; links to other files become links to the repository's address in
`[project.urls]` of pyproject.toml. A line `<!-- include: PATH -->` is replaced by that file.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Files outside docs/ that a page of the site includes as a whole.
PAGES = {ROOT / f"{name.upper()}.md": DOCS / f"{name}.md" for name in ("contributing", "changelog")}
_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
_HEADING = re.compile(r"^(#+) ", re.MULTILINE)
_FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the Markdown of a page with its includes and with links that work on the site."""
    return render(markdown, DOCS / page.file.src_uri, repository())


def render(markdown: str, page: Path, address: str | None) -> str:
    """Include files into a page and rewrite its links.

    Args:
        markdown: The text of the page.
        page: The page's file.
        address: The repository's address; None keeps only the text of links to files outside docs/.

    Raises:
        FileNotFoundError: A link or an include names a file that does not exist.
    """

    text = _relink(markdown, page, page, address)

    def include(match: re.Match[str]) -> str:
        source = page.parent / match[1]
        levels = [len(marks) for marks in _HEADING.findall(text[: match.start()])]
        included = _relink(source.read_text(encoding="utf-8"), source, page, address)
        return _below(included, levels[-1] if levels else 0)

    return _INCLUDE.sub(include, text)


def _below(markdown: str, level: int) -> str:
    """Lower every heading by `level`, so that an included file stands below the heading before it."""
    return _outside_code(markdown, lambda text: _HEADING.sub(lambda match: "#" * level + match[0], text))


def _relink(markdown: str, source: Path, page: Path, address: str | None) -> str:
    """Rewrite the links of `source` so that they work on the site in the place of `page`."""
    return _outside_code(markdown, lambda text: _relink_text(text, source, page, address))


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the parts of a page outside code blocks."""
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def _relink_text(text: str, source: Path, page: Path, address: str | None) -> str:
    def link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match[1]))
        if not target.exists():
            raise FileNotFoundError(f"{source} links to {match[1]}, which does not exist: correct the link")
        target = PAGES.get(target, target)
        if target.is_relative_to(DOCS):
            return PurePosixPath(os.path.relpath(target, page.parent)).as_posix() + (match[2] or "")
        kind = "tree" if target.is_dir() else "blob"
        return f"{address}/{kind}/main/{target.relative_to(ROOT).as_posix()}{match[2] or ''}"

    text = _LINK.sub(link, text)
    return text if address is not None else re.sub(r"\[([^\]]*)\]\(None/[^)]*\)", r"\1", text)


@functools.cache
def repository() -> str | None:
    """Return the repository's address from pyproject.toml; None if it names none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = {name.lower(): address for name, address in project.get("urls", {}).items()}
    found = next((urls[name] for name in ("repository", "source", "homepage") if name in urls), None)
    return None if found is None else found.rstrip("/")
