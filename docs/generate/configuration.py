"""docs/reference/configuration.md, from `hookstream serve --help` and `hookstream config print`."""

import re
from pathlib import Path

import program

HEAD = """# Settings

Look up a setting: its flag, its variable, its key in the file, its default and what it does. This page is made from
`hookstream serve --help` and `hookstream config print`.

Every setting can be given in three ways. A flag outranks a variable, a variable outranks the file, the file outranks the
default:

| way | `retention-age`, for example |
|---|---|
| flag | `hookstream serve --retention-age 7days` |
| variable | `HOOKSTREAM_RETENTION_AGE=7days` |
| key in the TOML file that `--config FILE` or `HOOKSTREAM_CONFIG` names | `retention-age = "7days"` |

`hookstream config print` shows what is in force and where each value comes from, with secrets left out.
`hookstream config check` says everything that is wrong at once and ends with status 1 then. A key that is no setting is an
error.

| kind of value | how it is written |
|---|---|
| `DURATION` | a number and a unit, such as `90s`, `15min`, `12h`, `30days`, or several: `1h 30min` |
| `SIZE` | a number and a unit, such as `500MiB` or `10GiB` |
| `LIST` | values with commas between them |
| `HOST:PORT` | an address or a name, and a port; port 0 takes any free port, and the log line `ready` says which |
| `FILE`, `DIR` | a path, from the directory that the service is started in |
| `URL` | with its scheme, such as `https://hooks.example.com` |
| `NUMBER` | such as `0.25` |
| `BOOL` | `true` or `false`; the flag alone means `true` |

"""

TAIL = """## Variables that are no settings

These hold secrets, so they have no flag, or they say how to log:

| variable | meaning |
|---|---|
"""

SECRETS = {
    "HOOKSTREAM_ADMIN_TOKEN": "The operator's token itself, in place of `admin-token-file`",
    "HOOKSTREAM_HEYGEN_API_KEY": "HeyGen's API key itself, in place of `heygen-api-key-file`",
    "HOOKSTREAM_HEYGEN_OAUTH_TOKEN": "The OAuth token itself, in place of `heygen-oauth-token-file`",
    "HOOKSTREAM_SEALING_KEY": "The sealing key itself, in place of `sealing-key-file`",
    "HOOKSTREAM_PREVIOUS_SEALING_KEY": "The key before itself, in place of `previous-sealing-key-file`",
    "HOOKSTREAM_JETSTREAM_NKEY": "The seed itself, in place of `jetstream-nkey-file`",
    "HOOKSTREAM_LOG_LEVEL": "How much is logged: `error`, `warn`, `info`, `debug`, `trace`; `info` if not set",
}

GROUPS = {
    "Listeners": r"(ingress|grpc|admin)-listen|public-url|trusted-proxies|allowed-origins",
    "Access": r"admin-token-file|insecure|(previous-)?sealing-key-file",
    "TLS": r".*-tls-.*",
    "HeyGen": r"heygen-.*|reconcile-.*|rotate-secrets-after",
    "Storage": r"data-dir|log|retention-.*",
    "JetStream": r"jetstream-.*|advertise-.*",
    "Running": r"config|drain-deadline|log-format|otlp-endpoint|trace-ratio",
}


def page(_root: Path) -> str:
    [serve] = [command for command in program.commands(["serve"])]
    defaults = in_force(program.run("config", "print"))
    settings = {key(option): option for option in serve.options}
    unknown = set(defaults) - set(settings)
    assert not unknown, f"config print has settings that serve --help has not: {unknown}"
    text, left = HEAD, dict(settings)
    for group, pattern in GROUPS.items():
        text += f"## {group}\n\n| flag | variable | default | meaning |\n|---|---|---|---|\n"
        for name in [name for name in left if re.fullmatch(pattern, name)]:
            option = left.pop(name)
            default = defaults.get(name)
            shown = f"`{default}`" if default is not None else "not set"
            meaning = program.cell(option.meaning)
            text += f"| `{option.usage}` | `{option.variable}` | {shown} | {meaning} |\n"
        text += "\n"
    assert not left, f"settings without a group: {sorted(left)}"
    said = " ".join(option.meaning for option in serve.options)
    for variable in set(re.findall(r"HOOKSTREAM_[A-Z_]+", said)) - set(SECRETS):
        raise AssertionError(f"{variable} is a variable that SECRETS does not explain")
    text += TAIL + "".join(f"| `{name}` | {meaning} |\n" for name, meaning in SECRETS.items())
    return text


def key(option: program.Option) -> str:
    return option.usage.split()[0].removeprefix("--")


def in_force(printed: str) -> dict[str, str | None]:
    """What `config print` says of every setting: its value, or None for one that is not set."""
    values: dict[str, str | None] = {}
    for line in printed.splitlines():
        if found := re.fullmatch(r'([a-z-]+) = "(.*)" +# default', line):
            values[found[1]] = found[2]
        elif found := re.fullmatch(r"# ([a-z-]+) is not set", line):
            values[found[1]] = None
        else:
            raise AssertionError(f"config print says what is not understood: {line}")
    return values
