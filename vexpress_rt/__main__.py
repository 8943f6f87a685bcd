"""The command line: `vexpress-rt generate`, `vexpress-rt inspect` and `vexpress-rt compile`. See `commands`."""

from __future__ import annotations

try:
    from vexpress_rt import entry
except KeyboardInterrupt:  # as early as that
    raise SystemExit(130) from None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done.  1: an error, told on stderr.  2, by SystemExit: wrong usage.  128 + n: ended by signal n (Ctrl-C: 130).

    A process that was started without standard streams (`2>&-`, pythonw) prints nothing and ends with the same code: a
    report with nowhere to go is lost, and no error. stdout that breaks later is one: 1, or 141 for a closed pipe.
    """

    def command() -> int:
        from vexpress_rt.commands import run  # takes time, in which Ctrl-C is to be answered

        return run(arguments)

    return command() if arguments is not None else entry.run_command(command)


if __name__ == "__main__":
    raise SystemExit(main())
