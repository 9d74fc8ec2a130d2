"""Runs the examples as their first lines say, and has them work a subscription over a kill and a drain."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

from client_test import Sender, Server, create_endpoint, service_grpc
from program import Program, expect, until
from script import restart, status_of

INSTALL_SECONDS_MAX = 300


def commands_of(source):
    """The commands in the comment that a file begins with: what is indented there."""
    comment = re.match(r"(?:(?://|#).*\n)+", source.read_text()).group()
    return re.findall(r"^(?://|#)(?:\t| {2,})(.*)$", comment, re.MULTILINE)


def run_example(source, root, target):
    """Runs an example in a copy of its directory, and fails unless each event is handled once and acknowledged."""
    tree = target / "clients/tree"
    example = pathlib.Path(*source.relative_to(root).parts[:2])
    directory = tree / example
    built = shutil.ignore_patterns("node_modules", "target")
    shutil.copytree(root / example, directory, dirs_exist_ok=True, ignore=built)
    shutil.copytree(root / "proto", tree / "proto", dirs_exist_ok=True)
    *install, start = commands_of(source)
    environment = {**os.environ, "PATH": f"{target / 'python-client-venv/bin'}:{os.environ['PATH']}"}
    for command in install:
        subprocess.run(["bash", "-c", command], cwd=directory, env=environment, check=True, timeout=INSTALL_SECONDS_MAX)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(Server(keep_ports=True)))
        stub = service_grpc.HookstreamServiceStub(stack.enter_context(server.channel()))
        sender = stack.enter_context(contextlib.closing(Sender(server, "videos", create_endpoint(stub, "videos"))))
        environment["HOOKSTREAM_ADDRESS"] = server.addresses["grpc"]
        worker = Program(["bash", "-c", start], environment, directory)
        stack.enter_context(contextlib.closing(worker))

        def handles(event_type, data, line):
            sender.deliver(event_type, data)
            expect(worker.next_line(), line)
            until("the event is acknowledged", lambda: status_of(stub, "videos").backlog == 0)

        handles(
            "avatar_video.success", {"video_id": "v1", "url": "https://a.example/1"}, "ready v1 https://a.example/1"
        )
        handles("avatar_video.fail", {"video_id": "v2", "msg": "too long"}, "failed v2 too long")
        server.kill()
        restart(server, sender)
        handles("avatar_video.fail", {"video_id": "v3", "msg": "too short"}, "failed v3 too short")
        server.process.send_signal(signal.SIGTERM)
        expect(server.process.wait(), 0)
        restart(server, sender)
        handles(
            "avatar_video.success", {"video_id": "v4", "url": "https://a.example/4"}, "ready v4 https://a.example/4"
        )
