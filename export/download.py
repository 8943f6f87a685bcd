"""Download the released checkpoint of V-Express from the model hub, into the layout that `export.build` reads.

    python -m export.download [--output model_ckpts] [--repo OWNER/NAME] [--revision COMMIT]

The README of the public implementation (tencent-ailab/V-Express, "Download Models") names the repository,
tk93/V-Express. Its listing and history say where the files are: the five networks of V-Express at its root, since June
2024 as .bin; under model_ckpts/ copies of stabilityai/sd-vae-ft-mse, facebook/wav2vec2-base-960h, the configuration of
the U-Net of runwayml/stable-diffusion-v1-5, and the pack buffalo_l of InsightFace, of which the face detector is used.
Later commits than REVISION only change the model card.

The files are downloaded into a directory inside the output, compared with the sizes and hashes that the hub states, and
moved into place together. Files that are in place already are compared, and downloaded only if they differ.

The weights do not belong to this project; LICENCES names their terms. Its sources are the README of the public
implementation (end of "Acknowledgements"), the model cards, and the model zoo of InsightFace.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.command import print_progress, run
from export.errors import CheckpointError, DownloadError
from vexpress_rt.errors import ConfigError, OutputError, VExpressError
from vexpress_rt.utils.file_lock import locked_folder

if TYPE_CHECKING:
    from export.checkpoint.hub import Entry, Hub, Listing, Report

REPOSITORY = "tk93/V-Express"
REVISION = "dc60631371a1ff1bc11590dbc1e3021aaea156b6"  # June 2024
STAGING = ".download"  # directory inside the output, so that files are moved within a file system
LICENCES = """\
The weights belong to their authors, who set these terms:
  V-Express             for research, not for commercial use (its README); Apache-2.0 in its model card at the
                        commit fetched here, no licence in later ones
  det_10g (InsightFace) for non-commercial research only
  sd-vae-ft-mse         MIT
  wav2vec2-base-960h    Apache-2.0
  Stable Diffusion 1.5  CreativeML OpenRAIL-M (of it, only a configuration file is fetched)"""


@dataclass(frozen=True)
class Source:
    """The origin of a file of the checkpoint.

    Attributes:
        repository: OWNER/NAME on the hub.
        path: Path in the repository.
        target: Path in the checkpoint directory.
    """

    repository: str
    path: str
    target: str


SOURCES = (
    Source(REPOSITORY, "model_ckpts/stable-diffusion-v1-5/unet/config.json", "stable-diffusion-v1-5/unet/config.json"),
    Source(REPOSITORY, "model_ckpts/sd-vae-ft-mse/config.json", "sd-vae-ft-mse/config.json"),
    Source(
        REPOSITORY,
        "model_ckpts/sd-vae-ft-mse/diffusion_pytorch_model.bin",
        "sd-vae-ft-mse/diffusion_pytorch_model.bin",
    ),
    Source(REPOSITORY, "model_ckpts/wav2vec2-base-960h/config.json", "wav2vec2-base-960h/config.json"),
    Source(
        REPOSITORY,
        "model_ckpts/wav2vec2-base-960h/preprocessor_config.json",
        "wav2vec2-base-960h/preprocessor_config.json",
    ),
    Source(REPOSITORY, "model_ckpts/wav2vec2-base-960h/pytorch_model.bin", "wav2vec2-base-960h/pytorch_model.bin"),
    Source(
        REPOSITORY,
        "model_ckpts/insightface_models/models/buffalo_l/det_10g.onnx",
        "insightface_models/models/buffalo_l/det_10g.onnx",
    ),
    Source(REPOSITORY, "v_kps_guider.bin", "v-express/v_kps_guider.bin"),
    Source(REPOSITORY, "audio_projection.bin", "v-express/audio_projection.bin"),
    Source(REPOSITORY, "reference_net.bin", "v-express/reference_net.bin"),
    Source(REPOSITORY, "motion_module.bin", "v-express/motion_module.bin"),
    Source(REPOSITORY, "denoising_unet.bin", "v-express/denoising_unet.bin"),
)


@dataclass(frozen=True)
class _Item:
    """A file to download to the path `target` in the checkpoint directory."""

    listing: Listing
    entry: Entry
    target: str


def download(
    output: Path, repository: str = REPOSITORY, revision: str = REVISION, report: Report = lambda _: None
) -> int:
    """Download the files of SOURCES that `output` does not have yet. Other files there stay as they are.

    After an error, files that were downloaded completely or in part are kept in `output`/.download for the next run.

    Args:
        output: The checkpoint directory.
        repository: Repository to use in place of REPOSITORY.
        revision: Commit, tag or branch to use in place of REVISION.
        report: Called with a line of progress.

    Returns:
        The number of downloaded files.

    Raises:
        ConfigError: `output` is a file, or `repository` is not the name of a repository.
        DownloadError: The hub cannot be reached or refuses, a file has another hash, or another download is running.
        OutputError: `output` cannot be written, or the disk has too little space.
    """
    from export.checkpoint.hub import Hub

    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: choose another --output, a folder")
    hub = Hub(report)
    items = _items(hub, repository, revision)
    try:
        missing = _missing_or_damaged(items, output, report)
        if missing or (output / STAGING).exists():
            with _locked(output / STAGING) as staging:
                _fetch(hub, missing, staging, report)
                # The configuration of the U-Net, which a checkpoint cannot be read without, is moved last.
                for item in reversed(missing):
                    (output / item.target).parent.mkdir(parents=True, exist_ok=True)
                    (staging / item.target).replace(output / item.target)
                shutil.rmtree(staging)
    except VExpressError:
        raise
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written: {error}: check permissions and free space, or choose another --output; "
            "the files downloaded so far are kept"
        ) from error
    return len(missing)


def _items(hub: Hub, repository: str, revision: str) -> list[_Item]:
    revisions = {source.repository: (source.repository, "main") for source in SOURCES}
    revisions[REPOSITORY] = (repository, revision)
    listings = {name: hub.listing(*where) for name, where in revisions.items()}
    return [_Item(listings[s.repository], listings[s.repository].entry(s.path), s.target) for s in SOURCES]


def _missing_or_damaged(items: list[_Item], folder: Path, report: Report) -> list[_Item]:
    """Return the items whose file in `folder` is missing, or differs in size or hash."""
    if present := [item for item in items if (folder / item.target).is_file()]:
        size = _amount(sum(item.entry.size for item in present))
        report(f"checking {len(present)} files that are in {folder} already: {size}")
    faults = {item.target: item.entry.fault(folder / item.target) for item in items}
    for item in present:
        if fault := faults[item.target]:
            report(f"{folder / item.target} {fault}: fetching it")
    return [item for item in items if faults[item.target]]


@contextmanager
def _locked(staging: Path) -> Iterator[Path]:
    """Create the staging directory and lock it during the block."""
    staging.mkdir(parents=True, exist_ok=True)
    with locked_folder(staging) as locked:
        if not locked:
            raise DownloadError(f"another download into {staging.parent} is running: wait until it has ended")
        yield staging


def _fetch(hub: Hub, items: list[_Item], staging: Path, report: Report) -> None:
    todo = _missing_or_damaged(items, staging, report)
    bytes_left = sum(item.entry.size - item.entry.downloaded(staging / item.target) for item in todo)
    free = shutil.disk_usage(staging).free
    if bytes_left > free:
        raise OutputError(
            f"{staging.parent} has room for {_amount(free)}, but {_amount(bytes_left)} are still missing: free some "
            "space, or choose another --output"
        )
    for index, item in enumerate(todo, start=1):
        report(f"[{index}/{len(todo)}] {item.target}: {_amount(item.entry.size)}")
        hub.fetch(item.listing, item.entry, staging / item.target)


def _amount(size: int) -> str:
    unit, name = next((unit for unit in ((1e9, "GB"), (1e6, "MB")) if size >= unit[0]), (1e3, "kB"))
    return f"{size / unit:.2f} {name}"


def check(folder: Path) -> None:
    """Check that the files are a checkpoint that `export.build` can read.

    Args:
        folder: The checkpoint directory.

    Raises:
        CheckpointError: A file is missing, damaged or of another model.
    """
    from export.checkpoint.reader import Checkpoint

    try:
        _ = Checkpoint(folder).architecture
    except CheckpointError as error:
        raise CheckpointError(
            f"all files match the hub, but they are not a checkpoint of V-Express: {error}; if you gave --repo or "
            "--revision, leave them out"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m export.download", description="Fetch the released checkpoint of V-Express, 6.1 GB."
    )
    parser.add_argument(
        "--output", type=Path, default=Path("model_ckpts"), help="checkpoint directory to fill (default: model_ckpts)"
    )
    parser.add_argument("--repo", default=REPOSITORY, help=f"repository on the hub (default: {REPOSITORY})")
    parser.add_argument("--revision", default=REVISION, help="commit, tag or branch (default: the commit of June 2024)")
    given = parser.parse_args(arguments)
    print(LICENCES, flush=True)
    return run(lambda: _download(given), "interrupted; run the command again to resume")


def _download(given: argparse.Namespace) -> None:
    fetched = download(given.output, given.repo, given.revision, print_progress)
    check(given.output)
    print(f"{given.output} is complete: {fetched} files downloaded, {len(SOURCES) - fetched} were there. Next:")
    print(f"  python -m export.build --weights {shlex.quote(str(given.output))}")


if __name__ == "__main__":
    raise SystemExit(main())
