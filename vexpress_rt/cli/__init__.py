"""The command line: `vexpress-rt generate`, `inspect`, `compile`, `tune` and `cache`."""
