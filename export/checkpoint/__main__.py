"""`python -m export.checkpoint`."""

from export.checkpoint.reader import main

if __name__ == "__main__":
    raise SystemExit(main())
