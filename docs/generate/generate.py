"""Writes the pages of docs/reference, or with --check says which of them are stale.

The pages in `PAGES` are written whole. What is written by hand about errors is compared with the source by `errors`.
"""

import sys
from pathlib import Path

import api
import cli
import configuration
import errors

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = {"api.md": api.page, "cli.md": cli.page, "configuration.md": configuration.page}


def main() -> int:
    check = "--check" in sys.argv[1:]
    problems = errors.problems(ROOT, (REFERENCE / "errors.md").read_text())
    problems += errors.messages(ROOT, (ROOT / "docs" / "troubleshooting.md").read_text())
    for name, page in PAGES.items():
        path, text = REFERENCE / name, page(ROOT)
        if path.exists() and path.read_text() == text:
            continue
        if check:
            problems.append(f"docs/reference/{name} is stale: run docs/generate/run")
        else:
            path.write_text(text)
            print(f"wrote docs/reference/{name}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
