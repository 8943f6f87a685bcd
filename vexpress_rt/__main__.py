"""The command line: `vexpress-rt generate`, `vexpress-rt inspect` and `vexpress-rt compile`. See `cli`."""

from __future__ import annotations

try:
    from vexpress_rt.utils import command_entry
except KeyboardInterrupt:  # before any handler
    raise SystemExit(130) from None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0: success.  1: an error, with a message on stderr.  2, by SystemExit: wrong usage.  128 + n: ended by signal n
    (Ctrl-C: 130).

    A process without standard streams (`2>&-`, pythonw) prints nothing and ends with the same code. A stdout that
    breaks later is an error: 1, or 141 for a closed pipe.
    """

    def command() -> int:
        from vexpress_rt.cli.main import run

        return run(arguments)

    return command() if arguments is not None else command_entry.run_command(command)


if __name__ == "__main__":
    raise SystemExit(main())
