"""Imports and videos need no module that Windows and macOS lack.

The tests run processes without the modules and the names of `os` and `signal` that Windows lacks. Third-party
libraries, which have builds for each system, are imported first.
"""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import av
from PIL import Image

from tests.support.paths import ROOT

LIBRARIES = "numpy, av, cv2, filelock, onnxruntime, PIL.Image, tqdm"
_AS_ON_WINDOWS = """
import importlib.abc, importlib.util, os, shutil, signal, sys

MISSING = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"}

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def pretend():
    for name in MISSING:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Finder())
    usage = shutil.disk_usage(os.curdir)
    shutil.disk_usage = lambda path: usage  # Windows has it without statvfs
    for name in (
        "O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "sched_getaffinity", "sched_setaffinity",
        "fchmod", "fchown", "chown", "lchown", "geteuid", "getuid", "getgid", "getegid", "getgroups", "getpgid",
        "fork", "forkpty", "killpg", "setsid", "mkfifo", "mknod", "statvfs", "fstatvfs", "getloadavg",
        "register_at_fork", "posix_fadvise", "posix_fallocate", "sendfile", "wait3", "wait4", "pread", "pwrite",
    ):
        if hasattr(os, name):
            delattr(os, name)
    for name in ("SIGKILL", "SIGHUP", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGSTOP", "SIGCONT", "pthread_kill",
                 "setitimer", "pthread_sigmask", "sigwait"):
        if hasattr(signal, name):
            delattr(signal, name)
    os.supports_dir_fd = set()
    os.supports_fd = set()
    os.supports_follow_symlinks = {os.stat}
"""


def run(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "as_on_windows.py").write_text(_AS_ON_WINDOWS)
    head = f"import {LIBRARIES}, sys; sys.path.insert(0, {str(folder)!r}); from as_on_windows import pretend; "
    command = [sys.executable, "-W", "error", "-c", head + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    """Modules import optional libraries such as cuda-python only when they are used."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "vexpress_rt").rglob("*.py")
        if path.name != "__main__.py"
    )
    assert len(modules) > 80
    code = "pretend(); import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = run(code, tmp_path, *modules)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_exporter_can_be_imported(tmp_path: Path) -> None:
    """Its modules that need no torch, which has builds of its own for each system."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "export").rglob("*.py")
    )
    code = (
        "import huggingface_hub; pretend(); import importlib\n"
        "needed = ('torch', 'transformers', 'onnx', 'safetensors')\n"
        "sys.modules.update(dict.fromkeys(needed))\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "        print(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        if error.name.partition('.')[0] not in needed: raise\n"
    )
    done = run(code, tmp_path, *modules)
    assert (done.returncode, done.stderr) == (0, "")
    imported = set(done.stdout.split())
    names = ("staging", "download", "command", "errors", "checkpoint.hub", "build.__main__", "build.targets")
    assert imported >= {f"export.{name}" for name in names}
    assert len(imported) > 50


def test_a_video_is_made(tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), (90, 90, 90)).save(tmp_path / "photo.png")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(9600))
    code = "pretend(); from vexpress_rt.__main__ import main; raise SystemExit(main())"
    done = run(
        code, tmp_path, "generate", "--image", str(tmp_path / "photo.png"), "--image-keypoints", "34,40", "62,40",
        "48,58", "--audio", str(tmp_path / "speech.wav"), "--output", str(tmp_path / "out.mp4"), "--steps", "1",
        "--quiet",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8
    assert not list(tmp_path.glob(".vexpress-*"))


def test_partial_files_are_closed_where_open_files_cannot_be_renamed(tmp_path: Path) -> None:
    """Windows cannot rename open files."""
    code = (
        "import os; from pathlib import Path\n"
        "from vexpress_rt.utils import partial_file\n"
        "partial_file._LOCKABLE = False\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "with partial_file.partial_file(Path(sys.argv[1]) / 'a.mp4') as path:\n"
        "    assert set(os.listdir('/proc/self/fd')) == before\n"
        "    path.replace(path.with_name('a.mp4'))\n"
    )
    done = run(code, tmp_path, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.mp4").exists()
