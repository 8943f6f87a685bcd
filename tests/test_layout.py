"""The layout of the repository: modules directly in the package, tests that mirror it, and imports of tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT, TESTS

PACKAGE = ROOT / "vexpress_rt"
MOST_NAMES = 12  # that a reader takes in at one look
ALWAYS_THERE = {"__init__.py", "__main__.py", "errors.py", "config.py", "types.py", "py.typed"}
UNTESTED = {"engines"}  # a wheel has the bundle there
ABOUT_THE_PACKAGE = {"layout", "package"}  # tests/test_<subject>.py of the package as a whole
TESTED_ELSEWHERE = {  # modules without a test file of their own: the tests that cover them
    "__main__": "cli/test_generate.py",
    "errors": "integration/test_errors.py",
    "backends/base": "backends/onnxruntime/test_engine.py",
    "backends/validation": "backends/onnxruntime/test_engine.py",
    "backends/cuda/device_engine": "backends/onnxruntime/test_cuda_engine.py",
    "backends/onnxruntime/provider": "backends/test_registry.py",
    "backends/tensorrt/provider": "backends/test_registry.py",
    "bundle/onnx_graph": "bundle/test_weight_check.py",
    "bundle/untrusted_json": "bundle/test_manifest.py",
    "cli/bundle_option": "cli/test_generate.py",
    "cli/compile": "backends/tensorrt/test_plan_store_refused.py",
    "cli/main": "cli/test_generate.py",
    "media/photos/bmp": "media/photos/test_containers_damage.py",
    "media/photos/encoded_photo": "media/photos/test_containers_damage.py",
    "pipeline/device_operations": "stages/test_device_frames.py",
    "stages/portrait_encoder": "pipeline/test_generator.py",
    "utils/async_thread": "pipeline/test_async_frame_stream.py",
    "utils/closable": "pipeline/test_generator_output.py",
    "utils/control_groups": "utils/test_cpus.py",
}


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def packages() -> list[Path]:
    """Every package below `vexpress_rt`, relative to it."""
    return sorted(file.parent.relative_to(PACKAGE) for file in PACKAGE.rglob("__init__.py") if file.parent != PACKAGE)


def imported_modules(file: Path) -> set[str]:
    """Return the absolute names that a file imports, `a.b` and `a.b.c` for `from a.b import c`."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively; expected absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def is_test_module(name: str) -> bool:
    """Return whether a name is that of a test module or of a member of one."""
    first, *rest = name.split(".")
    return first == "tests" and any(part.startswith("test_") for part in rest)


@pytest.mark.parametrize("folder", ["tests", "scripts", "benchmarks", "demo", "export", "vexpress_rt"])
def test_nothing_imports_a_test_module(folder: str) -> None:
    files = python_files(ROOT / folder)
    assert files
    found = {
        str(file.relative_to(ROOT)): imports
        for file in files
        if (imports := sorted(filter(is_test_module, imported_modules(file))))
    }
    assert found == {}, "what several modules share belongs into tests/support, stand-ins into tests/doubles"


def test_an_import_of_a_test_module_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / "test_file.py"
    file.write_text("from tests.media.test_image import gradient\nfrom tests.media import test_image_crop\n")
    named = {"tests.media.test_image", "tests.media.test_image.gradient", "tests.media.test_image_crop"}
    assert set(filter(is_test_module, imported_modules(file))) == named


def test_every_package_has_its_tests() -> None:
    assert len(packages()) > 10
    lacking = [str(name) for name in packages() if not list((TESTS / name).glob("test_*.py"))]
    assert lacking == []


def subjects(folder: Path) -> set[str]:
    """Return `<subject>` of every `test_<subject>.py` that mirrors a folder of the package."""
    found = {file.stem.removeprefix("test_") for file in (TESTS / folder).glob("test_*.py")}
    return found if folder.parts else found - ABOUT_THE_PACKAGE


def modules(folder: Path) -> set[str]:
    return {file.stem for file in (PACKAGE / folder).glob("*.py")} - {"__init__"}


def concerns(subject: str, module: str) -> bool:
    return subject == module or subject.startswith(f"{module}_")


@pytest.mark.parametrize("folder", [Path(), *packages()], ids=str)
def test_a_test_file_is_named_after_a_module_of_the_package_that_it_mirrors(folder: Path) -> None:
    stray = [subject for subject in subjects(folder) if not any(concerns(subject, name) for name in modules(folder))]
    assert stray == [], "expected test_<module>.py or test_<module>_<subject>.py"


def test_every_module_has_a_test_file_or_is_listed() -> None:
    without = {
        (folder / module).as_posix()
        for folder in [Path(), *packages()]
        for module in modules(folder)
        if not any(concerns(subject, module) for subject in subjects(folder))
    }
    assert without == set(TESTED_ELSEWHERE), "give a new module a test file; a module that has one leaves the list"
    assert [file for file in TESTED_ELSEWHERE.values() if not (TESTS / file).is_file()] == []


def test_a_reader_takes_in_the_package_at_one_look() -> None:
    names = {path.name for path in PACKAGE.iterdir()} - ALWAYS_THERE - UNTESTED - {"__pycache__"}
    assert len(names) <= MOST_NAMES, sorted(names)
    assert all((PACKAGE / name).is_file() for name in ALWAYS_THERE)


def test_every_test_is_collected(request: pytest.FixtureRequest) -> None:
    """Test functions are in files that pytest collects, in packages, so that names of files may repeat."""
    patterns = request.config.getini("python_files")
    assert {"test_*.py"} <= set(patterns)
    assert request.config.getini("testpaths") == ["tests"]
    for file in python_files(TESTS):
        functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
        tests = [function.name for function in functions if function.name.startswith("test_")]
        assert bool(tests) == file.name.startswith("test_"), f"{file} has the tests {tests}"
        assert (file.parent / "__init__.py").is_file(), f"{file.parent} lacks __init__.py"


def test_stand_ins_are_kept_together() -> None:
    """What several tests put in the place of engines, libraries and services lies in tests/doubles alone."""
    for file in python_files(TESTS / "support"):
        classes = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
        assert not [name for name in classes if name.startswith(("Fake", "StandIn"))], file
