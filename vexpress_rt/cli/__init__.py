"""The command line: `vexpress-rt generate`, `inspect`, `compile` and `tune`."""
