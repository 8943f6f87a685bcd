"""Tuning records: results of `vexpress-rt tune` in the user's cache, which `provider="auto"` reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vexpress_rt import __version__
from vexpress_rt.backends.provider import Provider
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.cpu_model import cpu_model
from vexpress_rt.utils.cpus import limit_threads
from vexpress_rt.utils.user_cache import read_record, remove_record, write_record

KIND = "tuning"
_LONGEST = 2000  # characters of a reason

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class TuningRecord:
    """The stored result of tuning.

    Attributes:
        provider: Name of the provider that "auto" selects among those that were compared.
        reason: What was measured, as text.
        libraries: `Provider.describe_library` of that provider and of the one that "auto" selects without a record, by
            name. A record of other versions is ignored.
    """

    provider: str
    reason: str
    libraries: Mapping[str, str]


def read_tuning(bundle: Bundle, threads: int | None, providers: Sequence[Provider]) -> TuningRecord | None:
    """Return the record for a bundle, this CPU and a number of threads; None if no record is valid.

    A record is valid for the versions of this package and of the libraries that it was made with.

    Args:
        bundle: The bundle.
        threads: Requested CPU threads; None for the default.
        providers: The providers that tuning compares.
    """
    found = read_record(KIND, _key(bundle))
    if found is None:
        return None
    record = _parse(found.get(str(limit_threads(threads).threads)))
    by_name = {provider.name: provider for provider in providers}
    if record is None or not {record.provider, *record.libraries} <= by_name.keys():
        return None
    for name, library in record.libraries.items():
        try:
            present = by_name[name].describe_library(bundle.manifest.target)
        except BackendError as error:
            present = str(error)
        if present != library:
            _log.info("the tuning record is ignored: it was made with %s; installed: %s", library, present)
            return None
    return record


def write_tuning(bundle: Bundle, threads: int | None, record: TuningRecord) -> bool:
    """Store a record beside those of other numbers of threads, and return whether the cache stores it.

    Args:
        bundle: The bundle.
        threads: Requested CPU threads; None for the default.
        record: The record.
    """
    stored = read_record(KIND, _key(bundle)) or {}
    entry = {
        "package": __version__,
        "provider": record.provider,
        "reason": record.reason,
        "libraries": dict(record.libraries),
    }
    return write_record(KIND, _key(bundle), {**stored, str(limit_threads(threads).threads): entry})


def forget_tuning(bundle: Bundle) -> bool:
    """Remove the records of a bundle on this CPU, for every number of threads, and return whether there were any.

    Args:
        bundle: The bundle.
    """
    return remove_record(KIND, _key(bundle))


def _key(bundle: Bundle) -> str:
    return f"{bundle.identity} {cpu_model().key}"


def _parse(entry: Any) -> TuningRecord | None:
    """Return the record of an entry that this version of the package wrote; None for anything else."""
    if type(entry) is not dict or entry.get("package") != __version__:
        return None
    provider, reason, libraries = (entry.get(name) for name in ("provider", "reason", "libraries"))
    if type(libraries) is not dict:
        return None
    texts = [provider, reason, *libraries, *libraries.values()]
    if not all(type(text) is str and len(text) <= _LONGEST and text.isprintable() for text in texts):
        return None
    return TuningRecord(str(provider), str(reason), libraries) if provider in libraries else None
