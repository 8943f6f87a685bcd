"""The released V-Express checkpoint, fetched from the model hub into the layout that `export.build` reads.

    python -m export.download [--output model_ckpts] [--repo OWNER/NAME] [--revision COMMIT]

Where the files are was read off the README of the public implementation (tencent-ailab/V-Express, "Download Models")
and the listing and history of the repository that it names, tk93/V-Express: the five networks of V-Express lie at its
root, since June 2024 as .bin, and everything else under model_ckpts/: copies of stabilityai/sd-vae-ft-mse,
facebook/wav2vec2-base-960h, the configuration of the U-Net of runwayml/stable-diffusion-v1-5, and InsightFace's pack
buffalo_l, of which the detector is needed here. Later commits than REVISION change the model card alone.

Each file is collected in a folder of its own inside the output, compared with the size and the hash that the hub
states, and put in place when all have come. What is in place already is compared, and fetched only if it differs.

The weights are not this project's; LICENCES says whose terms they are under. Sources: the README above (end of
"Acknowledgements"), model cards, InsightFace's model zoo.
"""

from __future__ import annotations

import argparse
import fcntl
import os
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

if TYPE_CHECKING:
    from export.checkpoint.hub import Entry, Hub, Listing, Report

REPOSITORY = "tk93/V-Express"
REVISION = "dc60631371a1ff1bc11590dbc1e3021aaea156b6"  # June 2024
ASIDE = ".download"  # in the output folder: on the same file system, and empty folders look like no checkpoint
LICENCES = """\
The weights are their owners', under their owners' terms:
  V-Express             for research, not for commercial use, says its README; its model card says Apache-2.0 at the
                        commit fetched here, and names no licence in later ones
  det_10g (InsightFace) for non-commercial research only
  sd-vae-ft-mse         MIT
  wav2vec2-base-960h    Apache-2.0
  Stable Diffusion 1.5  CreativeML OpenRAIL-M (of it, only a configuration file is fetched)"""


@dataclass(frozen=True)
class Source:
    """Where a file of the checkpoint comes from.  path: in the repository.  ours: in the checkpoint directory."""

    repository: str
    path: str
    ours: str


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
    """A file to have.  ours: in the checkpoint directory."""

    listing: Listing
    entry: Entry
    ours: str


def download(
    output: Path, repository: str = REPOSITORY, revision: str = REVISION, report: Report = lambda _: None
) -> int:
    """Make `output` hold the files of SOURCES as the hub states them; the number of files that had to be fetched.

    repository, revision: in the place of REPOSITORY and REVISION. Other files in `output` stay as they are.
    Raises DownloadError; ConfigError if `output` is a file or `repository` no name; OutputError if the disk refuses
    something. What was fetched until then is kept in `output`/.download for the next run.
    """
    from export.checkpoint.hub import Hub

    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: choose another --output, a folder")
    hub = Hub(report)
    items = _items(hub, repository, revision)
    try:
        missing = _faulty(items, output, report)
        if missing or (output / ASIDE).exists():
            with _alone(output / ASIDE) as aside:
                _fetch(hub, missing, aside, report)
                # The first of the table comes last: nothing reads a checkpoint without its U-Net's configuration.
                for item in reversed(missing):
                    (output / item.ours).parent.mkdir(parents=True, exist_ok=True)
                    (aside / item.ours).replace(output / item.ours)
                shutil.rmtree(aside)
    except VExpressError:
        raise
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written: {error}: check permissions and free space, or choose another --output; what "
            "came so far is kept"
        ) from error
    return len(missing)


def _items(hub: Hub, repository: str, revision: str) -> list[_Item]:
    asked = {source.repository: (source.repository, "main") for source in SOURCES}
    asked[REPOSITORY] = (repository, revision)
    listings = {name: hub.listing(*where) for name, where in asked.items()}
    return [_Item(listings[s.repository], listings[s.repository].entry(s.path), s.ours) for s in SOURCES]


def _faulty(items: list[_Item], folder: Path, report: Report) -> list[_Item]:
    """Those whose file in `folder` is not as the hub states it."""
    if there := [item for item in items if (folder / item.ours).is_file()]:
        size = _amount(sum(item.entry.size for item in there))
        report(f"checking {len(there)} files that are in {folder} already: {size}")
    faults = {item.ours: item.entry.fault(folder / item.ours) for item in items}
    for item in there:
        if fault := faults[item.ours]:
            report(f"{folder / item.ours} {fault}: fetching it")
    return [item for item in items if faults[item.ours]]


@contextmanager
def _alone(aside: Path) -> Iterator[Path]:
    """The folder to fetch into, for this process only."""
    aside.mkdir(parents=True, exist_ok=True)
    handle = os.open(aside, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"another download into {aside.parent} is running: wait until it has ended") from error
        yield aside
    finally:
        os.close(handle)


def _fetch(hub: Hub, items: list[_Item], aside: Path, report: Report) -> None:
    todo = _faulty(items, aside, report)
    bytes_left = sum(item.entry.size - item.entry.begun(aside / item.ours) for item in todo)
    free = shutil.disk_usage(aside).free
    if bytes_left > free:
        raise OutputError(
            f"{aside.parent} has room for {_amount(free)}, {_amount(bytes_left)} are to come: free some, or choose "
            "another --output"
        )
    for index, item in enumerate(todo, start=1):
        report(f"[{index}/{len(todo)}] {item.ours}: {_amount(item.entry.size)}")
        hub.fetch(item.listing, item.entry, aside / item.ours)


def _amount(size: int) -> str:
    unit, name = next((unit for unit in ((1e9, "GB"), (1e6, "MB")) if size >= unit[0]), (1e3, "kB"))
    return f"{size / unit:.2f} {name}"


def check(folder: Path) -> None:
    """Raise CheckpointError if the files make no checkpoint that `export.build` can use."""
    from export.checkpoint.reader import Checkpoint

    try:
        _ = Checkpoint(folder).architecture
    except CheckpointError as error:
        raise CheckpointError(
            f"all files are as the hub states them, but they make no checkpoint of V-Express: {error}; if you gave "
            "--repo or --revision, leave them out"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.download", description="Fetch the released checkpoint of V-Express, 6.1 GB."
    )
    parser.add_argument("--output", type=Path, default=Path("model_ckpts"), help="folder to fill (model_ckpts)")
    parser.add_argument("--repo", default=REPOSITORY, help=f"repository on the hub ({REPOSITORY})")
    parser.add_argument("--revision", default=REVISION, help="commit, tag or branch (the commit of June 2024)")
    given = parser.parse_args(arguments)
    print(LICENCES, flush=True)
    return run(lambda: _download_as_asked(given), "interrupted; run the command again to go on")


def _download_as_asked(given: argparse.Namespace) -> None:
    fetched = download(given.output, given.repo, given.revision, print_progress)
    check(given.output)
    print(f"{given.output} is complete: {fetched} files fetched, {len(SOURCES) - fetched} were there. To go on:")
    print(f"  python -m export.build --weights {shlex.quote(str(given.output))}")


if __name__ == "__main__":
    raise SystemExit(main())
