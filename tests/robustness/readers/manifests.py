"""Manifests of bundles: JSON with changed values, keys and branches, and mutated as text."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.robustness.cases import Case
from tests.robustness.mutations import TOKENS, mutate
from tests.robustness.values import nasty_json
from tests.support.paths import POCKET

_TOKENS = (
    *TOKENS, b"1e999", b"NaN", b"-0.0", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b'"\\ud800"', b'"../../etc/passwd"',
    b'"/etc/passwd"', b'"\\u0000"', b'"CON"', b'"manifest.json"', b"true", b"null", b"1.0", b"18446744073709551616",
)  # fmt: skip


class Manifests:
    """Opens a bundle with the manifest, and reads its description, recommended settings and hashes."""

    memory = 0
    noisy: tuple[bytes, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "bundle"

    def seeds(self) -> Sequence[Case]:
        from tests.support.bundles import make_compiled, make_manifest

        plain = (POCKET / "manifest.json").read_bytes()
        return [
            Case(".json", plain),
            *(Case(".json", json.dumps(one.to_json()).encode()) for one in (make_manifest(), make_compiled())),
        ]

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        content = chance.choice(seeds).content
        if chance.random() < 0.3:
            return Case(".json", mutate(chance, content, [seed.content for seed in seeds], _TOKENS))
        data = json.loads(content)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            data = _changed(chance, data)
        return Case(".json", json.dumps(data).encode())

    def read(self, path: Path) -> None:
        from vexpress_rt.bundle.bundle import Bundle
        from vexpress_rt.cli.inspect import describe
        from vexpress_rt.config import GenerationConfig

        if not self._folder.exists():
            shutil.copytree(POCKET, self._folder)
        before = set(self._folder.iterdir())
        shutil.copyfile(path, self._folder / "manifest.json")
        bundle = Bundle.open(self._folder)
        describe(bundle)
        bundle.manifest.settings(GenerationConfig())
        bundle.manifest.settings(GenerationConfig(), live=True)
        json.dumps(bundle.manifest.to_json())
        for name in bundle.manifest.engines:
            bundle.weight_stamps(name)
        bundle.verify(*sorted(bundle.manifest.files)[:3])
        assert set(self._folder.iterdir()) == before


def _changed(chance: random.Random, data: Any) -> Any:
    """Return the data with a value, a key or a branch changed at any depth."""
    places: list[tuple[Any, Any]] = []
    _collect(data, places)
    if not places:
        return nasty_json(chance)
    holder, key = chance.choice(places)
    kind = chance.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other, name = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    elif kind == 2 and isinstance(holder, dict):
        name = nasty_json(chance)
        holder[name if isinstance(name, str) else key + "x"] = holder.pop(key)
    elif kind == 3 and isinstance(holder[key], list):
        holder[key] = holder[key] * chance.choice((0, 2, 40))
    elif kind == 4 and isinstance(holder[key], (int, float)):
        value = holder[key]
        holder[key] = chance.choice(
            (-value, value + 1, value * 2, float(value), str(value), not value, 2**63 - 1, 10**18, 0)
        )
    else:
        holder[key] = nasty_json(chance)
    return data


def _collect(data: Any, places: list[tuple[Any, Any]]) -> None:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(items):
        places.append((data, key))
        _collect(value, places)
