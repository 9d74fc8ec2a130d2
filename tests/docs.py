"""What tests/docs.sh needs to read of the book in docs/.

docs.py links                   every relative link and anchor in docs/ resolves
docs.py page PAGE DIRECTORY     writes PAGE's files and its commands.sh into DIRECTORY
docs.py output PAGE FILE        what PAGE quotes is in FILE, in order
docs.py metrics FILE            docs/operate.md, the alerts and the dashboard know the metrics in FILE, and no others

In a page, `sh` blocks are run as they stand. A block of another language whose first line is a comment that names a file
(`# watch.py`, `// watch.js`) is that file, from there on. `text` blocks are quoted output; `…` stands for anything.
Everything else is not run.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FILE_NAME = re.compile(r"(?:#|//) ([\w.-]+\.\w+)$")


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    found = re.findall(r"^```([\w-]*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [(language, text) for language, text in found]


def links() -> list[str]:
    pages = sorted(DOCS.rglob("*.md"))
    problems = []
    for page in pages:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
        text = re.sub(r"`[^`\n]*`", lambda code: "x" * len(code[0]), text)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            where = f"{page.relative_to(ROOT)}: {target}"
            if not file.exists():
                problems.append(f"{where}: there is no such file")
            elif anchor and anchor not in anchors(file):
                problems.append(f"{where}: there is no such heading")
    linked = (DOCS / "README.md").read_text()
    for page in pages:
        name = str(page.relative_to(DOCS))
        if name != "README.md" and f"({name})" not in linked:
            problems.append(f"docs/README.md does not list {name}")
    for name in re.findall(r"docs/([\w/.-]+\.md)(?:#([\w-]+))?", (ROOT / "deploy/alerts.yaml").read_text()):
        if not (DOCS / name[0]).exists() or (name[1] and name[1] not in anchors(DOCS / name[0])):
            problems.append(f"deploy/alerts.yaml: docs/{name[0]}#{name[1]} does not exist")
    return problems


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Git hosts make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = "".join(one for one in plain if one.isalnum() or one in " -_").replace(" ", "-")
        number = 0
        while (numbered := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(numbered)
    return found


def page(page: Path, directory: Path) -> list[str]:
    commands = "set -euo pipefail\n"
    for language, text in blocks(page):
        named = FILE_NAME.match(text.split("\n", 1)[0])
        if language == "sh":
            commands += text
        elif named and language not in ("console", "text"):
            end = "END_OF_" + named[1].replace(".", "_").replace("-", "_")
            commands += f"cat > {named[1]} <<'{end}'\n{text}{end}\n"
    (directory / "commands.sh").write_text(commands)
    return []


def output(page: Path, file: Path) -> list[str]:
    said = file.read_text()
    problems, place = [], 0
    for language, text in blocks(page):
        if language != "text":
            continue
        for line in filter(None, map(str.strip, text.splitlines())):
            pattern = re.compile(".*?".join(re.escape(part) for part in line.split("…")))
            if not (found := pattern.search(said, place)):
                problems.append(f"{page.relative_to(ROOT)} quotes what is not said, or not there: {line}")
            else:
                place = found.end()
    return problems


def metrics(file: Path) -> list[str]:
    shown = {}
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", file.read_text(), re.M):
        shown[f"{name}_total" if kind == "counter" else name] = kind
    rows = re.findall(r"^\| `(hookstream_\w+)` \| (\w+) \|", (DOCS / "operate.md").read_text(), re.M)
    documented = dict(rows)
    problems = [f"docs/operate.md lacks the {shown[name]} {name}" for name in sorted(set(shown) - set(documented))]
    problems += [f"docs/operate.md has {name}, which /metrics has not" for name in sorted(set(documented) - set(shown))]
    problems += [f"docs/operate.md says that {name} is a {kind}" for name, kind in sorted(documented.items())
                 if shown.get(name, kind) != kind]
    for path in ("deploy/alerts.yaml", "deploy/grafana-dashboard.json"):
        text = (ROOT / path).read_text()
        if path.endswith(".json"):
            text = "\n".join(expressions(json.loads(text)))
        for name in sorted(set(re.findall(r"\bhookstream_\w+", text))):
            if re.sub(r"_(bucket|sum|count)$", "", name) not in shown and name not in shown:
                problems.append(f"{path} uses {name}, which /metrics has not")
    return problems


def expressions(value) -> list[str]:
    """Every query in a dashboard."""
    if isinstance(value, list):
        return [text for one in value for text in expressions(one)]
    if isinstance(value, dict):
        own = [value[key] for key in ("expr", "query") if isinstance(value.get(key), str)]
        return own + [text for one in value.values() for text in expressions(one)]
    return []


def main() -> int:
    name, *arguments = sys.argv[1:]
    problems = {"links": links, "page": page, "output": output, "metrics": metrics}[name](
        *(Path(argument).resolve() for argument in arguments))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
