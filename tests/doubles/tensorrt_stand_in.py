"""TensorRT for RTX in the place of TensorRT 10.14, whose interface it gets where the two differ.

Engines are built for real. What cannot be had without a GPU is recorded instead: the timing cache, the hardware
compatibility level. It has to happen before Polygraphy is imported, so tests run this file as a process of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

VERSION = "10.14.1.48"
RECORD: dict[str, Any] = {"strongly_typed": False, "hardware": None, "caches": []}


class TimingCache:
    """Bytes, and a note of the builds that it went through. Such that begin with `foreign` are of another GPU."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+"


def without(enumeration: Any, start: str) -> SimpleNamespace:
    """An enumeration without the members whose names start so."""
    members = {name: member for name, member in enumeration.__members__.items() if not name.startswith(start)}
    return SimpleNamespace(**members, __members__=members)


class Config:
    """A real configuration beneath, for what is the same."""

    def __init__(self, config: Any) -> None:
        self.__dict__.update(config=config, cache=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "hardware_compatibility_level":
            RECORD["hardware"] = value.name
        else:
            setattr(self.config, name, value)

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        return None if content.startswith(b"damaged") else TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        RECORD["caches"].append(cache.content.decode())
        self.__dict__["cache"] = cache
        return ignore_mismatch or not cache.content.startswith(b"foreign")

    def get_timing_cache(self) -> TimingCache:
        cache: TimingCache = self.cache
        return cache


def install(*, with_gpu: bool = True) -> None:
    """Put the stand-in where `import tensorrt` finds it."""
    import tensorrt_rtx as real

    class Builder:
        def __init__(self, logger: Any) -> None:
            if not with_gpu:
                logger.log(real.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.builder = real.Builder(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.builder, name)

        def create_network(self, flags: int = 0) -> Any:
            RECORD["strongly_typed"] = bool(flags & 1 << int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            return self.builder.create_network(flags)

        def create_builder_config(self) -> Config:
            return Config(self.builder.create_builder_config())

        def build_serialized_network(self, network: Any, config: Config) -> Any:
            return self.builder.build_serialized_network(network, config.config)

    module = ModuleType("tensorrt")
    module.__dict__.update(real.__dict__)
    del module.__dict__["ComputeCapability"]
    module.__dict__.update(
        __version__=VERSION,
        Builder=Builder,
        BuilderFlag=without(real.BuilderFlag, "REQUIRE_USER_ALLOCATION"),
    )
    sys.modules["tensorrt"] = module


def main(onnx: str, output: str, cache: str, gpu: str) -> None:
    """Build as for the target tensorrt, and print what was recorded, and the library's properties, as JSON."""
    install(with_gpu=gpu == "gpu")
    from tests.support.onnx_graphs import FLOAT, node, save
    from vexpress_rt.backends.tensorrt.builder import build_engine
    from vexpress_rt.backends.tensorrt.library import load
    from vexpress_rt.backends.tensorrt.options import EngineOptions

    spec = save(Path(onnx), [node("Relu", "x", "y")], [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])])
    library = load("tensorrt")
    options = EngineOptions(hardware_compatible=True, timing_cache=Path(cache), optimization_level=0)
    info = build_engine(Path(onnx), spec, Path(output), library, options)
    RECORD.update(name=library.name, bytes=info.bytes, needs_gpu=not library.builds_without_gpu)
    print(json.dumps(RECORD))


if __name__ == "__main__":
    main(*sys.argv[1:])
