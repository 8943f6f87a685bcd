"""The installed package: its files, the cost of its import, and its public names."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

import vexpress_rt
from tests.support.paths import ROOT
from vexpress_rt import errors

PUBLIC_NAMES = sorted(vexpress_rt.__all__)
EXPORT_ONLY = {"torch", "transformers", "safetensors", "onnx", "onnxscript", "export"}
SLOW_TO_LOAD = {"numpy", "cv2", "av", "PIL", "onnxruntime", "openvino", "scipy"}


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a new Python process has loaded after `statement`."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(finished.stdout.split())


def test_importing_the_package_loads_no_library() -> None:
    loaded = modules_after("import vexpress_rt")
    assert "vexpress_rt" in loaded
    assert not loaded & (EXPORT_ONLY | SLOW_TO_LOAD)


def test_whole_runtime_loads_without_what_export_needs_and_without_an_engine_library() -> None:
    loaded = modules_after("from vexpress_rt import Generator, Portrait, Video")
    assert "numpy" in loaded
    assert not loaded & (EXPORT_ONLY | {"onnxruntime", "openvino", "scipy"})


def imported_for_type_checkers() -> dict[str, str]:
    """Return the module of each name that type checkers and editors see in the package."""
    tree = ast.parse(Path(vexpress_rt.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names if node.module != "typing"}


def test_public_names_are_those_that_type_checkers_see() -> None:
    assert len(set(vexpress_rt.__all__)) == len(vexpress_rt.__all__)
    assert {*imported_for_type_checkers(), "__version__"} - {"annotations"} == set(PUBLIC_NAMES)
    assert set(dir(vexpress_rt)) >= set(PUBLIC_NAMES)


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(vexpress_rt, name)
    if name != "__version__":
        assert found is getattr(importlib.import_module(imported_for_type_checkers()[name]), name)


def test_every_error_of_the_tree_is_public() -> None:
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert tree == {name for name in PUBLIC_NAMES if name.endswith("Error")}


def test_other_names_are_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Generate'"):
        vexpress_rt.Generate  # noqa: B018


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel as `pip wheel` makes it, without compilation, so that neither network nor CMake is needed."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from scikit_build_core.build import build_wheel; build_wheel({str(folder)!r}, {{'wheel.cmake': 'false'}})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    (path,) = folder.iterdir()
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_holds_the_runtime_and_the_bundle_that_ships_alone(wheel: zipfile.ZipFile) -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vexpress_rt").rglob("*.py")}
    bundle = {f"vexpress_rt/engines/pocket/{path.name}" for path in (ROOT / "engines" / "pocket").glob("*")}
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == sources | bundle | {"vexpress_rt/py.typed"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A minimal checkout with the shipped bundle and other bundles."""
    folder = tmp_path / "project"
    (folder / "vexpress_rt").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "CMakeLists.txt", "LICENSE", ".gitignore", "vexpress_rt/__init__.py"):
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("pocket/manifest.json", "pocket/README.md", "pocket/denoiser.weights", "mine/manifest.json"):
        (folder / "engines" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "engines" / name).write_text(name)
    (folder / "engines" / "mine.timings").touch()
    return folder


SHIPPED = {"README.md", "denoiser.weights", "manifest.json"}


def make(kind: str, project: Path) -> Path:
    """Make the wheel, the editable wheel, or the sdist of a project without compilation."""
    settings = {} if kind == "sdist" else {"wheel.cmake": "false"}
    code = f"from scikit_build_core.build import build_{kind}; print(build_{kind}('dist', {settings!r}))"
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    return project / "dist" / finished.stdout.splitlines()[-1]


def test_wheel_has_the_bundle_inside_the_package_where_it_is_looked_for(project: Path) -> None:
    with zipfile.ZipFile(make("wheel", project)) as archive:
        names = {name for name in archive.namelist() if "/engines/" in name}
        assert archive.read("vexpress_rt/engines/pocket/manifest.json") == b"pocket/manifest.json"
    assert names == {f"vexpress_rt/engines/pocket/{name}" for name in SHIPPED}


def test_sdist_has_the_bundle_and_what_it_takes_to_build_the_wheel_again(project: Path, tmp_path: Path) -> None:
    with tarfile.open(make("sdist", project)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    files = {path.relative_to(unpacked / "engines") for path in (unpacked / "engines").rglob("*") if path.is_file()}
    assert files == {Path("pocket") / name for name in SHIPPED}
    with zipfile.ZipFile(make("wheel", unpacked)) as archive:
        assert {f"vexpress_rt/engines/pocket/{name}" for name in SHIPPED} <= set(archive.namelist())


def test_editable_installation_leads_to_the_checkout_where_the_bundle_is_beside_the_package(project: Path) -> None:
    with zipfile.ZipFile(make("editable", project)) as archive:
        assert not [name for name in archive.namelist() if "engines" in name]
        (path,) = (name for name in archive.namelist() if name.endswith(".pth"))
        *_, folder = archive.read(path).decode().split()
    assert Path(folder) == project


def test_wheel_can_be_built_before_there_is_a_bundle(project: Path) -> None:
    shutil.rmtree(project / "engines")
    with zipfile.ZipFile(make("wheel", project)) as archive:
        assert "vexpress_rt/__init__.py" in archive.namelist()
        assert not [name for name in archive.namelist() if "engines" in name]


def test_wheel_carries_version_licence_and_command(wheel: zipfile.ZipFile) -> None:
    info = f"vexpress_rt-{vexpress_rt.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert f"\nVersion: {vexpress_rt.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "vexpress-rt = vexpress_rt.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_description_of_the_wheel_is_the_readme_with_links_that_lead_from_anywhere(wheel: zipfile.ZipFile) -> None:
    metadata = message_from_bytes(wheel.read(f"vexpress_rt-{vexpress_rt.__version__}.dist-info/METADATA"))
    description = metadata.get_payload()
    assert isinstance(description, str)
    links = re.findall(r"\]\(([^)]+)\)", description)
    original = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(links) == len(original) > 20
    assert all(link.startswith("https://") for link in links)
    raw, blob = (f"https://{host}/" for host in ("raw.githubusercontent.com", "github.com"))
    ours = [link for link in original if not link.startswith("https://")]
    ends = [link for link in links if link.startswith((raw, blob))]
    assert [link.partition("/main/")[2] for link in ends] == ours
    assert [link.startswith(raw) for link in ends] == [link.endswith(".webp") for link in ours]


def test_addresses_of_the_project_are_complete() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["urls"]) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert all(address.startswith("https://") for address in project["urls"].values())


def test_changelog_has_a_section_for_the_version_or_for_the_one_to_come() -> None:
    version = vexpress_rt.__version__
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert ".dev" in version or version in sections


def test_runtime_needs_these_packages_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in project["dependencies"]}
    engines_and_media = {"numpy", "av", "pillow", "opencv-python-headless", "onnxruntime"}
    assert names == {*engines_and_media, "filelock", "platformdirs", "tqdm"}


def test_the_tested_lowest_versions_are_the_allowed_ones() -> None:
    """Those of the runtime, and of the extras whose libraries run without a GPU."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    check = runpy.run_path(str(ROOT / "scripts/check_versions.py"))
    required = check["requirements"](project)
    minima = {one.name: next(s.version for s in one.specifier if s.operator == ">=") for one in required}
    tested = check["pins"](ROOT / "constraints-lowest.txt")
    assert tested.keys() == minima.keys()
    assert {"numpy", "onnxruntime", "openvino", "pillow-heif"} <= tested.keys()
    for package, version in tested.items():  # 2.0.0 is the first of >=2.0
        assert re.fullmatch(rf"{re.escape(minima[package])}(\.0)*", version), package


def test_the_newest_versions_are_sought_within_the_allowed_ones() -> None:
    check = runpy.run_path(str(ROOT / "scripts/check_versions.py"))
    project = {
        "dependencies": ["numpy>=2.0", "av>=18.0", "Pillow>=11.3"],
        "optional-dependencies": {"openvino": ["openvino>=2026.4,<2026.5"], "export": ["torch>=2.13"]},
    }
    outdated = [
        {"name": name, "latest_version": version}
        for name, version in [("numpy", "2.5.1"), ("pillow", "12.0"), ("openvino", "2026.5.0"), ("torch", "3.0")]
    ]
    assert check["newer"](check["requirements"](project), outdated) == {"numpy": "2.5.1", "Pillow": "12.0"}
    outdated[2]["latest_version"] = "2026.4.2"
    assert check["newer"](check["requirements"](project), outdated)["openvino"] == "2026.4.2"


def test_onnxruntime_for_gpus_is_as_new_as_that_for_the_cpu() -> None:
    """Older versions read weights from any path that a graph names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["cuda"]]
    assert {"onnxruntime>=1.24.1", "onnxruntime-gpu>=1.24.1"} <= set(required)
