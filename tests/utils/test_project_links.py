"""Addresses in messages are those of the project, and each message that names the exporter says where it is."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from vexpress_rt import BundleNotFoundError, Generator
from vexpress_rt.__main__ import main
from vexpress_rt.utils.project_links import DOCUMENTATION, EXPORTER, EXPORTER_PLACE, SOURCE

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "vexpress_rt").rglob("*.py"))
COMMAND = r"`python -m export|`\{(BUILD_COMMAND|build_command\()"
BUILD_AGAIN = r"\b(re)?build (it|one|again|with|a bundle|the bundle)\b|\bexport (it|the graph) again"
FLAG = r"--(precision|frames|height|no-onnx)\b"
# Flags in parts of messages and commands that other code completes, and in the help of commands, which ends with the
# place.
COMPLETED_ELSEWHERE = {"parser.py", "weight_check.py", "target.py", "plan_rebuild.py"}


def test_addresses_are_those_of_the_project() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert (urls["Source"], urls["Documentation"]) == (SOURCE, DOCUMENTATION)


def test_an_error_that_names_the_exporter_says_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=re.escape(f"` {EXPORTER}")):
        Generator(tmp_path / "nothing")


@pytest.mark.parametrize("command", ["generate", "inspect", "compile", "tune"])
def test_help_that_names_the_exporter_says_where_it_is(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"python -m export.build is {EXPORTER_PLACE}" in capsys.readouterr().out


def test_usage_that_names_the_exporter_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--dtype", "fp16", "--image", "a", "--audio", "b", "--output", "c.mp4"])
    assert f"\n  python -m export.build is {EXPORTER_PLACE}\n" in capsys.readouterr().err


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_message_that_needs_the_exporter_says_where_it_is(path: Path) -> None:
    """A string that names a command or a flag of the exporter, or says to build a bundle, has EXPORTER as well."""
    tree = ast.parse(path.read_text())
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    passed = {id(part) for node in strings for part in node.values}
    passed |= {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.JoinedStr, ast.Constant)) and id(node) not in passed:
            text = ast.unparse(node)
            if re.search(f"{COMMAND}|{BUILD_AGAIN}", text) or (
                re.search(FLAG, text) and path.name not in COMPLETED_ELSEWHERE
            ):
                assert "{EXPORTER}" in text, f"line {node.lineno}: {text}"


def _has_docstring(node: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and ast.get_docstring(node) is not None
