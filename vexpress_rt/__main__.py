"""The command line: `vexpress-rt generate`, `inspect`, `compile`, `tune` and `cache`; `cli` has them."""

from __future__ import annotations

try:
    from vexpress_rt.utils import command_entry
except KeyboardInterrupt:  # no signal handler is set yet
    raise SystemExit(130) from None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    A process without standard streams (`2>&-`, pythonw) prints nothing and ends with the same code.

    Args:
        arguments: The command line without the program's name; None for that of this process.

    Returns:
        0 for success; 1 for an error, with a message on stderr; 128 + n after signal n (Ctrl-C: 130). If stdout breaks
        during the run: 1, or 141 for a closed pipe.

    Raises:
        SystemExit: With code 2 for wrong usage.
    """

    def command() -> int:
        from vexpress_rt.cli.main import run

        return run(arguments)

    return command() if arguments is not None else command_entry.run_command(command)


if __name__ == "__main__":
    raise SystemExit(main())
