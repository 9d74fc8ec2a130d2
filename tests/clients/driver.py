"""Proves that any gRPC client can use the service: one program a language goes through the same script.

Owns what is run, with which interface, and the tables. A client is started by the `run` of its directory, which
installs what it needs below HOOKSTREAM_TARGET, generates its stubs from the interface in HOOKSTREAM_PROTO and connects
to HOOKSTREAM_ADDRESS; how it is spoken to is said in `program.py`. The examples are run as their first lines say.
"""

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback

import google.rpc

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = pathlib.Path(os.environ["HOOKSTREAM_TARGET"])
sys.path.insert(0, str(HERE / "python"))
from client_test import Sender, Server, create_endpoint, read_kept, service_grpc
from examples import INSTALL_SECONDS_MAX, run_example
from script import POINTS, Script, begin_beyond_doubles

# What is started for each client.
CLIENTS = {
    "python-sync": ["python-grpcio/run", "sync"],
    "python-asyncio": ["python-grpcio/run", "asyncio"],
    "node": ["node-grpc-js/run"],
    "typescript-grpc": ["typescript/run", "grpc"],
    "typescript-grpc-web": ["typescript/run", "grpc-web"],
    "typescript-connect": ["typescript/run", "connect"],
    "ruby": ["ruby/run"],
    "php-grpc-web": ["php/run"],
    "go": ["go/run"],
    "java": ["java/run"],
    "kotlin": ["kotlin/run"],
    "scala": ["scala/run"],
    "cpp": ["cpp/run"],
}
# What is run for each example.
EXAMPLES = {
    "example-python": "examples/python/worker.py",
    "example-node": "examples/node/worker.js",
    "example-typescript": "examples/typescript/worker.ts",
    "example-go": "examples/go/main.go",
    "example-java": "examples/java/src/main/java/Worker.java",
    "example-rust": "examples/rust/src/main.rs",
}
# Written, and not compiled by anybody yet: run only if they are named.
UNTRIED = {"example-rust"}


def write_interface(directory):
    """Writes the interface that the clients are generated from: `proto/`, and `google/rpc` for the details of errors.

    It is an earlier version, without batch.finished, so that the clients meet an enum value and a payload that they do
    not know.
    """
    later = ("BatchFinished batch_finished = ", "EVENT_TYPE_BATCH_FINISHED = ")
    dropped = 0
    for file in sorted((ROOT / "proto").rglob("*.proto")):
        lines = file.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not line.lstrip().startswith(later)]
        dropped += len(lines) - len(kept)
        copy = directory / file.relative_to(ROOT / "proto")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("".join(kept))
    assert dropped == len(later), f"{dropped} lines of the interface are dropped, expected {len(later)}"
    [google_rpc] = google.rpc.__path__
    for name in ("error_details.proto", "status.proto"):
        copy = directory / "google/rpc" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((pathlib.Path(google_rpc) / name).read_text())


def event_of_another_log():
    """An event that no service under test has."""
    with contextlib.closing(Server()) as server, server.channel() as channel:
        stub = service_grpc.HookstreamServiceStub(channel)
        with contextlib.closing(Sender(server, "there", create_endpoint(stub, "there"))) as sender:
            sender.deliver("avatar_video.success", {"video_id": "v1"})
        [event] = read_kept(stub)
        return event


def run_client(name, environment, foreign):
    """Takes a client through the script: its library, of each point whether it passed, and how many seconds it took."""
    program, *variant = CLIENTS[name]
    subprocess.run([HERE / program, "--install-only"], env=environment, check=True, timeout=INSTALL_SECONDS_MAX)
    outcomes, started = {}, time.monotonic()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(Server(keep_ports=True)))
        begin_beyond_doubles(server)
        script = Script(server, [HERE / program, *variant], environment, foreign)
        stack.enter_context(contextlib.closing(script))
        for title, point in POINTS.items():
            try:
                point(script)
                outcomes[title] = True
            except Exception:
                traceback.print_exc()
                outcomes[title] = False
                script.recover()
            print(f"{name}: {title} {'passed' if outcomes[title] else 'FAILED'}", flush=True)
        return script.client.library, outcomes, time.monotonic() - started


def run_clients(names):
    """The rows of their table: library, outcomes and seconds of each."""
    foreign = event_of_another_log()
    rows = {}
    with tempfile.TemporaryDirectory(prefix="hookstream-proto-") as interface:
        write_interface(pathlib.Path(interface))
        environment = {**os.environ, "HOOKSTREAM_PROTO": interface}
        for name in names:
            print(f"{name}: starting", flush=True)
            try:
                rows[name] = run_client(name, environment, foreign)
            except Exception:
                traceback.print_exc()
                rows[name] = "cannot be run", dict.fromkeys(POINTS, False), 0
    return rows


def run_examples(names):
    """The outcome of each."""
    rows = {}
    for name in names:
        print(f"{name}: starting", flush=True)
        try:
            run_example(ROOT / EXAMPLES[name], ROOT, TARGET)
            rows[name] = True
        except Exception:
            traceback.print_exc()
            rows[name] = False
        print(f"{name}: {'passed' if rows[name] else 'FAILED'}", flush=True)
    return rows


def table(heads, rows):
    """A Markdown table; a boolean is an outcome."""
    marks = {True: "passed", False: "**failed**"}
    lines = [heads, ["---"] * len(heads), *([marks.get(cell, cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables(clients, examples):
    """What was run and how it went, as Markdown."""
    found = []
    if clients:
        rows = [
            [name, library, *points.values(), f"{seconds:.0f}"] for name, (library, points, seconds) in clients.items()
        ]
        found.append(table(["client", "library", *POINTS, "seconds"], rows))
    if examples:
        found.append(table(["example", "works"], [[EXAMPLES[name], passed] for name, passed in examples.items()]))
    return "\n".join(found)


def page(clients, examples, directory):
    """The same for readers of the book, as a page in this directory: without times, and with links to the sources."""

    def link(text, path):
        return f"[{text}]({os.path.relpath(path, directory)})"

    points = table(["point", "what the client does"], [[name, point.__doc__] for name, point in POINTS.items()])
    client_rows = [
        [link(name, HERE / CLIENTS[name][0].removesuffix("/run")), library, *outcomes.values()]
        for name, (library, outcomes, _) in clients.items()
    ]
    example_rows = [[link(EXAMPLES[name], ROOT / EXAMPLES[name]), passed] for name, passed in examples.items()]
    return f"""\
# Clients

Look up which gRPC libraries are known to work. A program made with each goes through the same ten points, with stubs from
an interface without `batch.finished`, as if they were older than the service. This page is written by that run:
`tests/clients/run --table docs/reference/clients.md`.

{points}
{table(["client", "library", *POINTS], client_rows)}
The examples work a subscription while the service is killed and drained, and handle each event once:

{table(["example", "works"], example_rows)}"""


def main():
    parser = argparse.ArgumentParser(description="Takes clients in several languages through one script.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join([*CLIENTS, *EXAMPLES])}")
    parser.add_argument("--table", type=pathlib.Path, metavar="FILE", help="write the page of the book there")
    arguments = parser.parse_args()
    names = arguments.names or [name for name in (*CLIENTS, *EXAMPLES) if name not in UNTRIED]
    if unknown := set(names) - set(CLIENTS) - set(EXAMPLES):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    clients = run_clients([name for name in names if name in CLIENTS])
    examples = run_examples([name for name in names if name in EXAMPLES])
    print(f"\n{tables(clients, examples)}")
    if arguments.table is not None:
        arguments.table.write_text(page(clients, examples, arguments.table.resolve().parent))
    outcomes = [passed for _, points, _ in clients.values() for passed in points.values()]
    outcomes += examples.values()
    print(f"{outcomes.count(True)} passed, {outcomes.count(False)} failed")
    sys.exit(not all(outcomes))


if __name__ == "__main__":
    main()
