"""Make the table of the public `inference.py`'s flags from the command line's parser.

    python scripts/flag_table.py                              # print it
    python scripts/flag_table.py --write docs/migrating.md    # replace it in the page, between its markers

`tests/docs/test_pages.py` compares the page with the parser.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a run as a script

from vexpress_rt.cli.parser import ALIASES, REFUSED

BEGIN, END = "<!-- flag table: begin -->", "<!-- flag table: end -->"
# Flags of the public inference.py whose names do not change.
SAME = (
    "fps", "seed", "guidance-scale", "reference-attention-weight", "audio-attention-weight",
)  # fmt: skip
# Flags of the public inference.py whose names do not change, but whose values do.
OTHER_VALUES = {"device": "CPU, GPU or NPU of --provider openvino; --provider says what runs the engines"}


def flag_table() -> str:
    """Return the table in Markdown: each flag of the public code, its name here, and a remark."""
    rows = [(public(name), f"`--{name}`", "") for name in SAME]
    rows += [(public(name), f"`--{ours}`", "") for name, ours in ALIASES.items()]
    rows += [(public(name), f"`--{name}`", remark) for name, remark in OTHER_VALUES.items()]
    rows += [(public(name), "-", reason) for name, reason in REFUSED.items()]
    lines = ["| `inference.py` | here | remark |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {ours} | {remark} |" for name, ours, remark in rows)])


def public(name: str) -> str:
    """Return a flag as the public code spells it: with underscores."""
    return f"`--{name.replace('-', '_')}`"


def with_table(page: str) -> str:
    """Return a page with the current table between its markers."""
    head, _, rest = page.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"the page has no markers {BEGIN} and {END}: add them around the table")
    return f"{head}{BEGIN}\n\n{flag_table()}\n\n{END}{tail}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="page to update; none: print the table")
    page = parser.parse_args(arguments).write
    if page is None:
        print(flag_table())
    else:
        page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
