"""`python -m export.build`."""

from export.build.main import main

if __name__ == "__main__":
    raise SystemExit(main())
