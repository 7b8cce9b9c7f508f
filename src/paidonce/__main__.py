"""`python -m paidonce`, and the `paidonce` command: the command line, or a clear word if its extra is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line. Exits with 2 for what the user can mend."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"paidonce: the command line needs {' and '.join(missing)}. Install it with: pip install 'paidonce[all]'\n"
        )
        raise SystemExit(2)
    from paidonce.cli import run

    run()


if __name__ == "__main__":
    main()
