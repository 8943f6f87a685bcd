"""The command line: `vexpress-rt generate`, `inspect` and `compile`."""
