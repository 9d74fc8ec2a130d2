"""What the binary says of itself: the text and the options of every command's --help."""

import os
import re
import subprocess
from dataclasses import dataclass, field


@dataclass
class Option:
    """An option or argument: how it is written, what it means, and what it can be given by and is without."""

    usage: str
    meaning: str
    default: str = ""
    variable: str = ""


@dataclass
class Command:
    """One command's help, taken apart."""

    path: list[str]
    about: str = ""
    usage: str = ""
    commands: list[tuple[str, str]] = field(default_factory=list)
    arguments: list[Option] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)
    after: str = ""


def run(*arguments: str) -> str:
    """What the binary prints, with none of the caller's own settings in sight."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOOKSTREAM_")}
    binary = os.environ["HOOKSTREAM_BINARY"]
    return subprocess.run([binary, *arguments], env=environment, check=True, capture_output=True, text=True).stdout


def commands(path: list[str] | None = None) -> list[Command]:
    """A command and all below it."""
    command = parse(path or [], run(*(path or []), "--help"))
    below = [name for name, _ in command.commands if name != "help"]
    return [command] + [one for name in below for one in commands([*(path or []), name])]


def parse(path: list[str], text: str) -> Command:
    command = Command(path)
    head, _, rest = text.partition("\nUsage: ")
    command.about = words(head)
    usage, _, rest = rest.partition("\n")
    command.usage = usage.strip()
    section, lines = None, {"Commands": [], "Arguments": [], "Options": [], None: []}
    for line in rest.splitlines():
        title = line.removesuffix(":")
        if title in lines and line.endswith(":"):
            section = title
        elif line and not line.startswith(" "):
            section = None
            lines[None].append(line)
        else:
            lines[section].append(line)
    command.commands = [(entry.usage, entry.meaning) for entry in entries(lines["Commands"])]
    command.arguments = entries(lines["Arguments"])
    command.options = [option for option in entries(lines["Options"]) if "--help" not in option.usage]
    command.after = "\n".join(lines[None]).strip()
    return command


def entries(lines: list[str]) -> list[Option]:
    """The entries of a section. Each starts at the section's own indentation; what is further in goes on with it."""
    found: list[list[str]] = []
    for line in lines:
        if re.match(r" {2}(\S| {4}--)", line):
            found.append([])
        if found:
            found[-1].append(line)
    return [entry(one) for one in found]


def entry(lines: list[str]) -> Option:
    usage, _, first = lines[0].strip().partition("  ")
    text, values = [first], []
    for line in (line.strip() for line in lines[1:]):
        value = re.match(r"- ([a-z-]+): +(.*)", line)
        if value:
            values.append(f"`{value[1]}`: {value[2]}")
        elif line != "Possible values:":
            text.append(line)
    meaning = words(" ".join(text))
    variable = re.search(r" ?\[env: ([A-Z_]+)=?\]", meaning)
    default = re.search(r" ?\[default: ([^]]*)\]", meaning)
    for bracket in (variable, default):
        meaning = meaning.replace(bracket[0], "") if bracket else meaning
    if values:
        meaning += "; " + ", ".join(values)
    return Option(usage, meaning, default[1] if default else "", variable[1] if variable else "")


def words(text: str) -> str:
    return " ".join(text.split())


def cell(text: str) -> str:
    """Text that stands in a cell of a table."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"([*_])", r"\\\1", parts[place]).replace("<", "&lt;")
    return "".join(parts)
