"""docs/reference/cli.md, from the --help of every command."""

from pathlib import Path

import program

HEAD = """# Commands

Look up what a command takes. This page is made from `hookstream COMMAND --help`; which command to use when is in the
[guide](../README.md).

A command that succeeds ends with status 0, one that fails with 1, one that was called wrongly with 2. Errors go to standard
error. `tail`, `events` and `await` print a table on a terminal, otherwise protobuf-JSON, one object a line; all others print
for people unless `--json` is given.

"""

CONNECTION = """## Connection options

All commands that talk to a running service take these.

"""

SETTINGS = "Takes [all settings of the service](configuration.md)."


def page(_root: Path) -> str:
    commands = program.commands()
    by_name = {" ".join(command.path): command for command in commands}
    settings = by_name["serve"].options
    connection = shared(by_name["tail"].options, by_name["events get"].options, by_name["token list"].options)
    listed = [command for command in commands if command.path and not command.commands]
    text = HEAD + "| command | |\n|---|---|\n"
    for command in listed:
        name = " ".join(command.path)
        text += f"| [`hookstream {name}`](#hookstream-{name.replace(' ', '-')}) | {program.cell(command.about)} |\n"
    text += "\n" + CONNECTION + table(connection)
    for command in listed:
        text += section(command, settings, connection)
    return text.rstrip() + "\n"


def shared(first: list[program.Option], *others: list[program.Option]) -> list[program.Option]:
    """The options that all have, but --json, which each command explains in its own way."""
    usages = [{option.usage for option in other} for other in others]
    return [one for one in first if one.usage != "--json" and all(one.usage in usage for usage in usages)]


def section(command: program.Command, settings: list[program.Option], connection: list[program.Option]) -> str:
    text = f"\n## hookstream {' '.join(command.path)}\n\n{command.about}.\n\n"
    text += f"    {command.usage}\n"
    own = command.options
    for group, note in ((settings, SETTINGS), (connection, "Takes the [connection options](#connection-options).")):
        usages = {option.usage for option in group}
        if usages <= {option.usage for option in own}:
            own = [option for option in own if option.usage not in usages]
            text += f"\n{note}\n"
    if command.arguments or own:
        text += "\n" + table(command.arguments + own)
    if command.after:
        text += f"\n{after(command.after)}"
    return text


def table(options: list[program.Option]) -> str:
    text = "| option | meaning | default | variable |\n|---|---|---|---|\n"
    for option in options:
        default = f"`{option.default}`" if option.default else ""
        variable = f"`{option.variable}`" if option.variable else ""
        text += f"| `{option.usage}` | {program.cell(option.meaning)} | {default} | {variable} |\n"
    return text


def after(text: str) -> str:
    """Examples as they stand; a sentence among them as a sentence."""
    out, is_code = "", False
    for line in text.splitlines():
        if line.startswith("  "):
            # The help is wrapped for terminals: a line that starts no command goes on with the one before.
            if is_code and not line.startswith("  hookstream"):
                out = out.rstrip("\n") + " " + line.strip() + "\n"
            else:
                out += ("" if is_code else "\n") + "    " + line.strip() + "\n"
            is_code = True
        elif line:
            out += ("\n" if is_code else "") + line + "\n"
            is_code = False
    return out
