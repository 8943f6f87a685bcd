"""The options of engines in OpenVINO (device, precision, threads) and the plugin configuration for them."""

from __future__ import annotations

from dataclasses import dataclass

from vexpress_rt.backends.openvino import library
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.cpus import limit_threads

CPU = "CPU"
DEVICES = (CPU, "GPU", "NPU")  # the default first
FULL = "fp32"
_NAMES = {FULL: ("FP32", "f32"), "bf16": ("BF16", "bf16"), "fp16": ("FP16", "f16")}  # of the capability, of the hint
PRECISIONS = tuple(_NAMES)  # the default first


@dataclass(frozen=True)
class EngineOptions:
    """The options of an engine.

    Attributes:
        device: One of `DEVICES`.
        precision: One of `PRECISIONS`, in which the engine computes; inputs and outputs keep the graph's dtypes.
        threads: CPU threads of one operator, as in `cpus.limit_threads`; None for one per core.
    """

    device: str = CPU
    precision: str = FULL
    threads: int | None = None

    def configuration(self) -> dict[str, str]:
        """Return the configuration of OpenVINO's plugin, by the names of its properties.

        * The precision is always set, since the plugin takes bfloat16 by itself where the CPU has it.
        * One stream: requests of several threads take turns with all CPU threads, and activations are in memory once.
        * Threads are not pinned to cores, where they would wait for other processes on the same cores.
        * In reduced precision, fused attention of the "snippets" is off. In 2026.4, it is wrong in bfloat16 where the
          number of queries equals the number of heads, on CPUs with AMX and on those with AVX-512 only. The property is
          internal to OpenVINO.

        Raises:
            ConfigError: The number of threads is impossible.
        """
        properties = {"INFERENCE_PRECISION_HINT": _NAMES[self.precision][1], "PERFORMANCE_HINT": "LATENCY"}
        if self.device == CPU:
            properties |= {
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": str(limit_threads(self.threads).threads),
                "ENABLE_CPU_PINNING": "NO",
            }
            if self.precision != FULL:
                properties["SNIPPETS_MODE"] = "DISABLE"
        return properties


def check_options(device: str, precision: str) -> None:
    """Check that this machine has a device, and that the device computes in a precision.

    Args:
        device: One of `DEVICES`.
        precision: One of `PRECISIONS`.

    Raises:
        BackendMissingError: OpenVINO is not installed.
        BackendError: The device is missing, or lacks the precision.
    """
    library.check_device(device)
    has = library.capabilities(device)
    able = [name for name, (capability, _) in _NAMES.items() if capability in has]
    if precision not in able:
        raise BackendError(
            f"precision is {precision}, which OpenVINO {library.version()} does not compute in on this "
            f"{library.device_name(device)} ({device}); it computes in {' and '.join(able) or 'none of these'}: choose "
            f"one of those"
        )
