"""The list of providers, and the selection of one that runs a bundle on this machine."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pkgutil import resolve_name

from vexpress_rt.backends.provider import EngineLoader, Progress, ProgressGuard, Provider
from vexpress_rt.backends.tuning_record import TuningRecord, read_tuning
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.config import REBUILD, check_choice
from vexpress_rt.errors import BackendError, ConfigError, OutputError, PlansMissingError

AUTO = "auto"
PROVIDERS: tuple[Provider, ...] = tuple(
    resolve_name(line)()
    for line in (  # the best first
        "vexpress_rt.backends.tensorrt.provider:TensorRTProvider",
        "vexpress_rt.backends.onnxruntime.provider:CudaProvider",
        "vexpress_rt.backends.onnxruntime.provider:CpuProvider",
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
    """

    provider: Provider
    reason: str
    loader: EngineLoader = field(compare=False)

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
    """Return the providers that `vexpress-rt tune` compares, the one that "auto" takes without a record first."""
    return tuple(provider for provider in PROVIDERS if provider.tunable)


def choose(
    name: str, bundle: Bundle, rebuild: str = "auto", progress: Progress | None = None, threads: int | None = None
) -> ProviderSelection:
    """Choose the provider that runs a bundle.

    "auto" takes the first of `PROVIDERS` that can run the bundle on this machine; of the tunable ones, a record of
    `vexpress-rt tune` puts the fastest first. Bundles compiled for one provider
    usually hold ONNX files as well, which other providers can run; if "auto" chooses one of those, it logs a
    warning. It skips devices that a library is not made for; name the provider to try such a device.

    Args:
        name: One of `provider_names()`.
        bundle: The bundle.
        rebuild: One of `config.REBUILD`: whether missing plans may be compiled now.
        progress: Called while plans are compiled: stage, done, total; from any thread.
        threads: Requested CPU threads, for which a record must hold; None for the default.

    Raises:
        ConfigError: The provider is unknown, or the bundle was not built for it.
        BackendMissingError: The provider's libraries are not installed.
        BackendError: The provider needs a GPU, and there is none; or compiling failed.
        PlansMissingError: Plans are missing and `rebuild` is "never"; "auto" does not fall back to another provider.
        OutputError: Plans cannot be written to the bundle.
    """
    check_choice("provider", name, provider_names())
    check_choice("rebuild", rebuild, REBUILD)
    if name != AUTO:
        provider = find_provider(name)
        return ProviderSelection(provider, "requested", provider.open(bundle, rebuild=rebuild, progress=progress))
    rejected: dict[str, list[str]] = {}  # reason: names of providers
    guard = None if progress is None else ProgressGuard(progress)
    tuned = read_tuning(bundle, threads, tunable_providers())
    for provider in _candidates(tuned):
        try:
            loader = provider.open(bundle, rebuild=rebuild, progress=guard, supported_only=True)
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
        return ProviderSelection(provider, reason, loader)
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
    """Return why "auto" takes a provider: the measurement if there is one, and if that changed the choice, alone."""
    if tuned is None or provider.name != tuned.provider:
        return [provider.advantage]
    return [tuned.reason] if provider is not tunable_providers()[0] else [provider.advantage, tuned.reason]


def _reasons_against(rejected: dict[str, list[str]]) -> list[str]:
    return [f"not {' or '.join(names)}, since {reason}" for reason, names in rejected.items()]
