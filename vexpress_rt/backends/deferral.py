"""Under the name that `rebuild` imports it by; see `vexpress_rt.deferral`."""

from vexpress_rt.deferral import cleaned_up_first, signals_deferred

__all__ = ["cleaned_up_first", "signals_deferred"]
