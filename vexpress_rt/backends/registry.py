"""The list of providers, and the selection of one that runs a bundle on this machine."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pkgutil import resolve_name

from vexpress_rt.backends.provider import EngineLoader, Progress, ProgressGuard, Provider
from vexpress_rt.backends.tuning_record import TuningRecord, read_tuning
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import PRECISIONS
from vexpress_rt.config import REBUILD, brief, check_choice
from vexpress_rt.errors import BackendError, ConfigError, OutputError, PlansMissingError

AUTO = "auto"
PROVIDERS: tuple[Provider, ...] = tuple(
    resolve_name(line)()
    for line in (  # the best first
        "vexpress_rt.backends.tensorrt.provider:TensorRTProvider",
        "vexpress_rt.backends.onnxruntime.provider:CudaProvider",
        "vexpress_rt.backends.onnxruntime.provider:CpuProvider",
        "vexpress_rt.backends.openvino.provider:OpenVinoProvider",
    )
)

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class ProviderSelection:
    """The provider that runs a bundle; made by `choose`.

    Attributes:
        provider: The provider.
        reason: Why this provider was chosen, as text.
        loader: Loads the bundle's engines.
        device: The device that was requested; None for the provider's default.
    """

    provider: Provider
    reason: str
    loader: EngineLoader = field(compare=False)
    device: str | None = None

    @property
    def name(self) -> str:
        """Name of the provider."""
        return self.provider.name


def provider_names() -> tuple[str, ...]:
    """Return the names that `provider=` and `--provider` accept: "auto", then the providers, the best first."""
    return (AUTO, *(provider.name for provider in PROVIDERS))


def find_provider(name: str) -> Provider:
    """Return a provider by its name.

    Args:
        name: Name of the provider, such as "cpu".

    Raises:
        ConfigError: There is no such provider.
    """
    check_choice("provider", name, provider_names()[1:])
    return next(provider for provider in PROVIDERS if provider.name == name)


def find_target_provider(target: str) -> Provider:
    """Return the best provider that bundles of a target are built for, which compiles them if they are compiled."""
    return next(provider for provider in PROVIDERS if target in provider.targets)


def tunable_providers() -> tuple[Provider, ...]:
    """Return the providers that `vexpress-rt tune` compares, the one that "auto" selects without a record first."""
    return tuple(provider for provider in PROVIDERS if provider.tunable)


def device_names() -> tuple[str, ...]:
    """Return the names that `device=` and `--device` accept, of all providers."""
    return tuple(dict.fromkeys(device for provider in PROVIDERS for device in provider.devices))


def choose(
    name: str,
    bundle: Bundle,
    rebuild: str = "auto",
    progress: Progress | None = None,
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> ProviderSelection:
    """Choose the provider that runs a bundle.

    "auto" selects the first of `PROVIDERS` that can run the bundle on this machine; of the tunable ones, a record of
    `vexpress-rt tune` puts the fastest first. Bundles compiled for one provider usually hold ONNX files as well, which
    other providers can run; if "auto" chooses one of those, it logs a warning. It skips devices that a library is not
    made for; name the provider to try such a device. A device or a precision rules out the providers that do not have
    it, and with either of them the record is not used.

    Args:
        name: One of `provider_names()`.
        bundle: The bundle.
        rebuild: One of `config.REBUILD`: whether missing plans may be compiled now.
        progress: Called while plans are compiled: stage, done, total; from any thread.
        device: One of `device_names()`; None for the provider's default.
        precision: A key of `PRECISIONS`; None for the provider's default.
        threads: Requested CPU threads, for which a record must hold; None for the default.

    Raises:
        ConfigError: The provider is unknown, does not have the device or the precision, or the bundle was not built
            for it.
        BackendMissingError: The provider's libraries are not installed.
        BackendError: The device is missing or lacks the precision, or compiling failed.
        PlansMissingError: Plans are missing and `rebuild` is "never"; "auto" does not fall back to another provider.
        OutputError: Plans cannot be written to the bundle.
    """
    check_choice("provider", name, provider_names())
    check_choice("rebuild", rebuild, REBUILD)
    if precision is not None:
        check_choice("precision", precision, tuple(PRECISIONS))
    if name != AUTO:
        provider = find_provider(name)
        loader = _open(provider, bundle, device, precision, rebuild, progress)
        return ProviderSelection(provider, "requested", loader, device)
    if device is not None and device not in device_names():
        raise _device_error(device)
    rejected: dict[str, list[str]] = {}  # reason: names of providers
    guard = None if progress is None else ProgressGuard(progress)
    tuned = None if device or precision else read_tuning(bundle, threads, tunable_providers())
    for provider in _candidates(tuned):
        try:
            loader = _open(provider, bundle, device, precision, rebuild, guard, supported_only=True)
        except PlansMissingError:
            raise  # a caller who forbids compiling does not expect a much slower provider instead
        except (ConfigError, BackendError, OutputError) as error:
            if guard is not None and error is guard.failure:
                raise
            rejected.setdefault(str(error), []).append(provider.name)
            continue
        reason = "; ".join([*_reasons_for(provider, tuned), *_reasons_against(rejected)])
        level = logging.INFO if bundle.manifest.target in provider.targets else logging.WARNING
        _log.log(level, "provider %s: %s", provider.name, reason)
        return ProviderSelection(provider, reason, loader, device)
    raise ConfigError(f"nothing on this machine can run the bundle: {'; '.join(_reasons_against(rejected))}")


def _candidates(tuned: TuningRecord | None) -> list[Provider]:
    """Return the providers in the order in which "auto" tries them: of the tunable ones, the measured fastest first."""
    if tuned is None:
        return list(PROVIDERS)
    tunable = tunable_providers()
    fastest = find_provider(tuned.provider)
    ordered = iter([fastest, *(provider for provider in tunable if provider is not fastest)])
    return [next(ordered) if provider in tunable else provider for provider in PROVIDERS]


def _reasons_for(provider: Provider, tuned: TuningRecord | None) -> list[str]:
    """Return why "auto" selects a provider: its advantage and the measurement, or only the latter if it decided."""
    if tuned is None or provider.name != tuned.provider:
        return [provider.advantage]
    return [tuned.reason] if provider is not tunable_providers()[0] else [provider.advantage, tuned.reason]


def _open(
    provider: Provider, bundle: Bundle, device: str | None, precision: str | None, rebuild: str,
    progress: Progress | None, *, supported_only: bool = False,
) -> EngineLoader:  # fmt: skip
    """Open a bundle with a provider, after checking that the provider has the device and the precision."""
    if device is not None and device not in provider.devices:
        raise _device_error(device)
    if precision is not None and precision not in (provider.computes_in or (bundle.manifest.precision,)):
        able = [other for other in PROVIDERS if precision in other.computes_in]
        raise ConfigError(
            f"precision is {precision}, and the bundle is in {bundle.manifest.precision}, the only precision that this "
            f"provider runs it in: use {_choice_of(able)}, or leave the precision out"
        )
    return provider.open(
        bundle, device=device, precision=precision, rebuild=rebuild, progress=progress, supported_only=supported_only
    )


def _device_error(device: object) -> ConfigError:
    """Return the error to raise for a device that a provider does not have."""
    able = [provider for provider in PROVIDERS if provider.devices]
    if device in device_names():
        able = [provider for provider in able if device in provider.devices]
        return ConfigError(f"device is {device}, which only {_choice_of(able)} has: use it, or leave the device out")
    expected = " or ".join(f"{', '.join(one.devices)} with provider={one.name!r}" for one in able)
    return ConfigError(
        f"device is {brief(device)}; expected one of {expected}: other providers run on one kind of device, which "
        "provider= names"
    )


def _choice_of(providers: list[Provider]) -> str:
    return " or ".join(f"provider={provider.name!r}" for provider in providers)


def _reasons_against(rejected: dict[str, list[str]]) -> list[str]:
    return [f"not {' or '.join(names)}, since {reason}" for reason, names in rejected.items()]
