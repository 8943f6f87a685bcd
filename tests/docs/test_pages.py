"""The pages of the documentation agree with the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import export.errors
import vexpress_rt
from scripts import flag_table, site_hooks
from tests.docs.examples import PAGES, ROOT, blocks
from vexpress_rt import errors
from vexpress_rt.backends.registry import provider_names
from vexpress_rt.cli.parser import parse
from vexpress_rt.config import GenerationConfig, Settings

DOCS = ROOT / "docs"
RUNTIME = ROOT / "vexpress_rt"
PACKAGES = sorted(path.parent.name for path in RUNTIME.glob("*/__init__.py"))
CODE = ("vexpress_rt", "export", "benchmarks", "demo", "examples", "scripts")
WRITTEN = [page for page in PAGES if page.parent.name != "benchmarks"]  # that page is made by `benchmarks.report`


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_names_its_language(page: Path) -> None:
    assert [block.name for block in blocks(page) if not block.language] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_mark_of_an_example_is_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    marks = re.findall(r"^ *<!-- example: (\w+)", text, re.MULTILINE)
    assert len(marks) == sum(bool(block.reason) for block in blocks(page)) + marks.count("setup")


def test_every_error_has_a_section() -> None:
    classes = [
        name for module in (errors, export.errors) for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, errors.VExpressError) and value.__module__ == module.__name__
    ]  # fmt: skip
    assert len(classes) > 15
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert [name for name in classes if name not in headings("errors.md") and name != "VExpressError"] == []
    assert "VExpressError" in text


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: vexpress_rt\.(\w+)$", text, re.MULTILINE)
    assert sorted([*named, "__version__"]) == sorted(vexpress_rt.__all__)
    assert "`vexpress_rt.__version__`" in text


def test_the_table_of_upstreams_flags_is_current() -> None:
    page = (DOCS / "migrating.md").read_text(encoding="utf-8")
    assert page == flag_table.with_table(page), "run: python scripts/flag_table.py --write docs/migrating.md"


def test_flags_of_upstream_that_keep_their_names_are_ours() -> None:
    options = {option.name.replace("_", "-") for option in fields(GenerationConfig)}
    assert set(flag_table.SAME) <= options


def test_the_table_of_options_has_every_option_and_its_default() -> None:
    page = (DOCS / "options.md").read_text(encoding="utf-8").split("<!-- options -->")[1]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", page.split("\n\nNot part")[0], re.MULTILINE)
    assert rows == [(option.name, written(option.default)) for option in fields(Settings)]


def test_every_flag_of_generate_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["generate", "--help"])
    flags = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    options = {f"--{option.name.replace('_', '-')}" for option in fields(Settings)}
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    assert len(flags) > 25
    assert sorted(flag for flag in flags - options if not re.search(rf"{flag}(?![\w-])", text)) == []


def test_the_table_of_providers_has_those_of_the_registry_in_order() -> None:
    table = (DOCS / "providers.md").read_text(encoding="utf-8").split("`auto`, the default")[0]
    assert ["auto", *re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)] == list(provider_names())


def written(default: object) -> str:
    """Return a default as the page has it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(f"{bound:g}" for bound in default) if isinstance(default, tuple) else str(default).lower()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    site_hooks.render(page.read_text(encoding="utf-8"), page, "https://example.org")  # raises FileNotFoundError


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names = re.findall(r"`([\w./]+)`", text)
    files = [name for name in names if name.endswith(".py") and "/" in name and "NAME" not in name]
    modules = [name.replace(".", "/") for name in names if name.partition(".")[0] in PACKAGES and "/" not in name]
    assert [name for name in files if not any((place / name).is_file() for place in (ROOT, RUNTIME))] == []
    assert [name for name in modules if not any((RUNTIME / f"{name}{end}").exists() for end in (".py", ""))] == []


def test_the_architecture_names_every_package_of_the_runtime_and_modules_that_exist() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert [package for package in PACKAGES if package not in rows] == []
    named = [(package, name) for package in PACKAGES for name in re.findall(r"`(\w+)`", rows[package])]
    paths = [RUNTIME / package / name for package, name in named]
    assert len(paths) > 30
    assert [str(path) for path in paths if not path.is_dir() and not path.with_suffix(".py").is_file()] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_into_pages_lead_to_headings(page: Path) -> None:  # of those in docs/, `make docs` checks them
    links = re.findall(r"\]\(docs/([\w/]+\.md)#([\w-]+)\)", page.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if link[1] not in map(anchor, headings(link[0]))] == []


def anchor(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_pages_that_code_names_exist() -> None:
    sources = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    named = {
        (path, page) for path in sources for page in re.findall(r"docs/[\w/]+\.md", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    assert [f"{path.relative_to(ROOT)}: {page}" for path, page in named if not (ROOT / page).is_file()] == []


def test_links_to_files_outside_the_site_become_addresses() -> None:
    page = DOCS / "model" / "page.md"
    text = "[a](../../export/__init__.py) [b](../index.md#x) [c](../../CONTRIBUTING.md#y) [d](https://x.org) [e](#z)"
    assert site_hooks.render(text, page, "https://host/name") == (
        "[a](https://host/name/blob/main/export/__init__.py) [b](../index.md#x) [c](../contributing.md#y) "
        "[d](https://x.org) [e](#z)"
    )
    assert site_hooks.render("[the file](../../export/__init__.py)", page, None) == "the file"
    assert site_hooks.render("```text\n[a](no)\n```", page, None) == "```text\n[a](no)\n```"
    with pytest.raises(FileNotFoundError, match=r"missing\.md, which does not exist"):
        site_hooks.render("[a](missing.md)", page, None)


def test_an_included_file_stands_below_the_heading_before_it(tmp_path: Path) -> None:
    (tmp_path / "part.md").write_text("# Part\n\n```sh\n# comment\n```\n\n## Of it\n", encoding="utf-8")
    page = tmp_path / "page.md"
    assert site_hooks.render("# Page\n\n<!-- include: part.md -->\n", page, None) == (
        "# Page\n\n## Part\n\n```sh\n# comment\n```\n\n### Of it\n\n"
    )
