"""Proves that any gRPC client can use the service: takes one client program a language through the same script.

Owns the service, its end and its restarts, the deliveries, and what counts as passed. A client program is started by the
`run` of its directory, which installs what it needs below HOOKSTREAM_TARGET, generates its stubs from the interface in
HOOKSTREAM_PROTO and connects to HOOKSTREAM_ADDRESS. It prints which library it is made with (`{"library": "grpcio 1.2.3"}`),
then reads orders from its standard input, one JSON object a line, and prints what it sees, one JSON object a line:

  order                                                  prints, then `{"done": {…}}` or `{"error": {…}}`
  create_endpoint name                                   done: secret
  follow endpoint event_types until_entity [after_cursor]  each frame; at a lost connection `reconnecting`, and goes on from
                                                         its cursor up to the event about this entity; done: cursor
  list endpoint event_types page_size                    each page as `page`, oldest first
  get id                                                 done: event
  await_event endpoint entity_id timeout_ms [after_cursor]  done: event
  create_subscription name endpoint retry_delay_ms       done
  work subscription count                                each attempt: a success is done, a failure rejected, anything else
                                                         retried once
  dead_letters subscription                              done: dead_letters

Without `after_cursor`, follow and await_event start at what is new. An error is its code, and of its details reason,
metadata and the names of the invalid fields. Enum values are numbers, 64-bit numbers are decimal strings.
"""

import argparse
import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import google.rpc

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE / "python"))
from client_test import CALL_SECONDS_MAX, Load, Sender, Server, create_endpoint, read_kept, service_grpc, service_pb2

# What is started for each client.
CLIENTS = {
    "python-sync": ["python-grpcio/run", "sync"],
    "python-asyncio": ["python-grpcio/run", "asyncio"],
    "node": ["node/run"],
    "typescript-grpc": ["typescript/run", "grpc"],
    "typescript-grpc-web": ["typescript/run", "grpc-web"],
    "ruby": ["ruby/run"],
    "php-grpc-web": ["php/run"],
}
INSTALL_SECONDS_MAX = 300
# Beyond 2^53: a client that reads it as a double gets another one.
LARGE_NUMBER = 9007199254740993
KILLS = 3
EVENTS_BETWEEN_KILLS = 100


def write_interface(directory):
    """Writes the interface that the clients are generated from: `proto/`, and `google/rpc` for the details of errors.

    It is an earlier version, without batch.finished, so that the clients meet an enum value and a payload they do not know.
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


class Failure(Exception):
    """A client did something else than the script says."""


def expect(found, expected):
    """Fails unless both are equal."""
    if found != expected:
        raise Failure(f"found {found!r}, expected {expected!r}")


def expect_same(found, expected):
    """As expect, but shows the first difference only."""
    for at, (one, other) in enumerate(zip(found, expected)):
        if one != other:
            raise Failure(f"place {at}: found {one!r}, expected {other!r}")
    expect(len(found), len(expected))


class Lines:
    """What a process prints, line by line as it comes."""

    def __init__(self, process):
        self.process, self.queue = process, queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.queue.put(line)
        self.queue.put(None)

    def next(self):
        """The next line."""
        try:
            line = self.queue.get(timeout=CALL_SECONDS_MAX)
        except queue.Empty:
            raise Failure(f"it printed nothing for {CALL_SECONDS_MAX} s") from None
        if line is None:
            raise Failure(f"it ended with status {self.process.wait()}")
        return line


class Client:
    """A client program."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.lines = Lines(self.process)
        self.library = self.next()["library"]

    def next(self):
        """The next thing it saw."""
        return json.loads(self.lines.next())

    def tell(self, order, **arguments):
        """Gives it an order."""
        self.process.stdin.write(json.dumps({"do": order, **arguments}) + "\n")
        self.process.stdin.flush()

    def see(self, kind):
        """What it saw, which must be of this kind."""
        seen = self.next()
        if list(seen) != [kind]:
            raise Failure(f"found {seen}, expected {kind}")
        return seen[kind]

    def ask(self, order, **arguments):
        """What is done after an order that prints nothing else."""
        self.tell(order, **arguments)
        return self.see("done")

    def refused(self, order, **arguments):
        """Code, reason and invalid fields with which an order is refused, and the metadata."""
        self.tell(order, **arguments)
        error = self.see("error")
        return (error["code"], error["reason"], error["fields"]), error["metadata"]

    def close(self):
        """Ends it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()


def restart(server, sender):
    """Starts the service again on its data and ports."""
    server.start()
    # Its connection ended with the service.
    sender.close()


class Script:
    """The ten points, for one client on one service."""

    def __init__(self, server, command, environment, foreign):
        self.server, self.command, self.foreign = server, command, foreign
        self.environment = {**environment, "HOOKSTREAM_ADDRESS": server.addresses["grpc"]}
        self.client = Client(self.command, self.environment)
        self.sender, self.reconnects = None, 0

    def recover(self):
        """After a failure: a new client, and a service that runs."""
        self.client.close()
        if self.server.process.poll() is not None:
            self.server.start()
        if self.sender is not None:
            self.sender.close()
        self.client = Client(self.command, self.environment)

    def close(self):
        """Ends the client."""
        self.client.close()
        if self.sender is not None:
            self.sender.close()

    def follow(self, until_entity, event_types=(), after_cursor=None):
        """Lets the client follow the endpoint from here, or from a cursor, up to the event about this entity."""
        arguments = {} if after_cursor is None else {"after_cursor": after_cursor}
        arguments.update(endpoint="videos", event_types=list(event_types), until_entity=until_entity)
        self.client.tell("follow", **arguments)
        if after_cursor is None:
            self.client.see("caught_up")

    def see_event(self):
        """The event that the client sees next, over lost connections."""
        while True:
            seen = self.client.next()
            self.reconnects += "reconnecting" in seen
            # Where these come depends on when the client comes back.
            if not seen.keys() & {"caught_up", "heartbeat", "reconnecting"}:
                if "event" not in seen:
                    raise Failure(f"found {seen}, expected an event")
                return seen["event"]

    def see_events(self, *entities):
        """The events that the client sees next, which are about these entities."""
        events = [self.see_event() for _ in entities]
        expect([event["entity_id"] for event in events], list(entities))
        return events

    def deliver(self, *entities):
        """Delivers a success about each of these entities."""
        for entity in entities:
            self.sender.deliver("avatar_video.success", {"video_id": entity})

    def creates_an_endpoint(self):
        secret = self.client.ask("create_endpoint", name="videos")["secret"]
        self.sender = Sender(self.server, "videos", secret)
        self.deliver("created")

    def subscribes_with_a_filter(self):
        self.follow("second", ["avatar_video.*", "*.fail"])
        self.sender.deliver("avatar_video_gif.success", {"video_id": "filtered"})
        self.deliver("first")
        self.sender.deliver("video_translate.fail", {"video_translate_id": "second"})
        self.see_events("first", "second")
        self.client.see("done")

    def receives_typed_events(self):
        self.follow("other")
        bodies = [
            self.sender.deliver("avatar_video.success", {"video_id": "typed", "url": "https://a.example/1", "n": LARGE_NUMBER}),
            self.sender.deliver("avatar_video.fail", {"video_id": "failed", "msg": "zu groß – 太大"}),
            self.sender.deliver("video_agent.success", {"session_id": "other"}),
        ]
        events = self.see_events("typed", "failed", "other")
        self.client.see("done")
        expect([event["payload"] for event in events], ["avatar_video_success", "avatar_video_fail", "video_agent_success"])
        expect([event["text"] for event in events], ["https://a.example/1", "zu groß – 太大", ""])
        expect([event["type"] for event in events], [1, 2, 11])
        expect([event["raw_body"].encode() for event in events], bodies)
        expect(json.loads(events[0]["raw_body"])["event_data"]["n"], LARGE_NUMBER)
        with self.server.channel() as channel:
            kept = read_kept(service_grpc.HookstreamServiceStub(channel), entity_ids=["typed", "failed", "other"])
        expect([(event["sequence"], event["id"]) for event in events], [(str(event.sequence), event.id) for event in kept])

    def goes_on_after_a_kill(self):
        self.follow("before")
        self.deliver("before")
        self.see_events("before")
        cursor = self.client.see("done")["cursor"]
        self.deliver("while it is away")
        self.follow("end", after_cursor=cursor)
        events = self.see_events("while it is away")
        load = Load(self.server, "videos", self.sender.secret, seed=0, threads=2)
        try:
            for _ in range(KILLS):
                events += [self.see_event() for _ in range(EVENTS_BETWEEN_KILLS)]
                self.server.kill()
                self.server.start()
                reconnects = self.reconnects
                while self.reconnects == reconnects:
                    events.append(self.see_event())
        finally:
            load.stop()
        self.sender.close()
        self.deliver("end")
        while events[-1]["entity_id"] != "end":
            events.append(self.see_event())
        self.client.see("done")
        request = service_pb2.SubscribeEventsRequest(after_cursor=cursor, stop_at_tail=True)
        with self.server.channel() as channel:
            *frames, _ = service_grpc.HookstreamServiceStub(channel).SubscribeEvents(request, timeout=CALL_SECONDS_MAX)
        kept = [(str(frame.event.sequence), frame.event.raw_body.decode()) for frame in frames]
        expect_same([(event["sequence"], event["raw_body"]) for event in events], kept)
        # The first and the last are not the load's.
        expect(len(kept) - 2, load.count())

    def lists_pages(self):
        videos = [f"page-{number}" for number in range(7)]
        for video in videos:
            self.sender.deliver("avatar_video_caption.success", {"video_id": video})
        self.client.tell("list", endpoint="videos", event_types=["avatar_video_caption.success"], page_size=3)
        pages = [self.client.see("page") for _ in range(3)]
        self.client.see("done")
        expect(pages, [videos[:3], videos[3:6], videos[6:]])

    def awaits(self):
        refusal, metadata = self.client.refused("await_event", endpoint="videos", entity_id="awaited", timeout_ms=100)
        expect(refusal, ("DEADLINE_EXCEEDED", "NO_EVENT_IN_TIME", []))
        self.deliver("another", "awaited")
        arguments = {"endpoint": "videos", "entity_id": "awaited", "timeout_ms": CALL_SECONDS_MAX * 1000}
        found = self.client.ask("await_event", **arguments, after_cursor=metadata["cursor"])["event"]
        expect(found["entity_id"], "awaited")
        # Now with the delivery after the call.
        self.client.tell("await_event", **arguments, after_cursor=found["cursor"])
        self.sender.deliver("avatar_video.fail", {"video_id": "awaited"})
        expect(self.client.see("done")["event"]["payload"], "avatar_video_fail")

    def works_a_subscription(self):
        self.client.ask("create_subscription", name="work", endpoint="videos", retry_delay_ms=100)
        self.sender.deliver("avatar_video.success", {"video_id": "good"})
        self.sender.deliver("avatar_video.fail", {"video_id": "bad"})
        self.sender.deliver("avatar_video_gif.success", {"video_id": "odd"})
        self.client.tell("work", subscription="work", count=4)
        attempts = [self.client.see("attempt") for _ in range(4)]
        self.client.see("done")
        accepted = service_pb2.ACKNOWLEDGEMENT_RESULT_ACCEPTED
        expect(
            [(a["entity_id"], a["attempt"], a["outcome"], a["result"]) for a in attempts],
            [
                ("good", 1, "done", accepted),
                ("bad", 1, "reject", accepted),
                ("odd", 1, "retry", accepted),
                ("odd", 2, "done", accepted),
            ],
        )
        [dead] = self.client.ask("dead_letters", subscription="work")["dead_letters"]
        expect(dead, {"entity_id": "bad", "attempts": 1, "reason": 2})
        with self.server.channel() as channel:
            expect(backlog(service_grpc.HookstreamServiceStub(channel), "work"), 0)

    def survives_what_it_does_not_know(self):
        self.follow("more")
        self.sender.deliver("galaxy.unknown", {"id": "unknown", "extra": "a field of tomorrow"}, envelope_of_tomorrow=[1])
        self.sender.deliver("batch.finished", {"batch_id": "later", "extra": "known to the service only"})
        self.sender.deliver("avatar_video.success", {"video_id": "more", "url": "u", "extra": "a new field"})
        events = self.see_events("", "later", "more")
        self.client.see("done")
        expect([event["type"] for event in events], [0, 30, 1])
        expect([event["payload"] for event in events], ["", "", "avatar_video_success"])
        expect([event["type_name"] for event in events], ["galaxy.unknown", "batch.finished", "avatar_video.success"])
        expect(
            [event["extra"] for event in events], ["a field of tomorrow", "known to the service only", "a new field"]
        )

    def sees_errors_with_their_details(self):
        found, _ = self.client.refused("list", endpoint="videos", event_types=["*.fail", "Avatar*"], page_size=1)
        expect(found, ("INVALID_ARGUMENT", "INVALID_FIELD", ["filter.event_types[1]"]))
        found, _ = self.client.refused("get", id=self.foreign.id)
        expect(found, ("NOT_FOUND", "EVENT_NOT_FOUND", []))
        found, _ = self.client.refused("create_endpoint", name="videos")
        expect(found, ("ALREADY_EXISTS", "ENDPOINT_EXISTS", []))
        self.follow("never", after_cursor=self.foreign.cursor)
        error = self.client.see("error")
        expect((error["code"], error["reason"]), ("FAILED_PRECONDITION", "CURSOR_OF_ANOTHER_LOG"))

    def crosses_a_drain(self):
        self.follow("after the drain")
        self.deliver("before the drain")
        [event] = self.see_events("before the drain")
        self.server.process.send_signal(signal.SIGTERM)
        expect(self.client.see("draining")["cursor"], event["cursor"])
        lost = self.client.see("reconnecting")
        expect((lost["code"], lost["reason"]), ("UNAVAILABLE", "DRAINING"))
        expect(self.server.process.wait(CALL_SECONDS_MAX), 0)
        restart(self.server, self.sender)
        self.deliver("after the drain")
        self.see_events("after the drain")
        self.client.see("done")


POINTS = {
    "endpoint": Script.creates_an_endpoint,
    "filter": Script.subscribes_with_a_filter,
    "typed": Script.receives_typed_events,
    "kill": Script.goes_on_after_a_kill,
    "pages": Script.lists_pages,
    "await": Script.awaits,
    "subscription": Script.works_a_subscription,
    "unknown": Script.survives_what_it_does_not_know,
    "errors": Script.sees_errors_with_their_details,
    "drain": Script.crosses_a_drain,
}


def backlog(stub, name):
    """How many events a subscription has not settled."""
    get = service_pb2.ManageSubscriptionRequest(get=service_pb2.ManageSubscriptionRequest.Get(name=name))
    answer = stub.ManageSubscription(get, timeout=CALL_SECONDS_MAX, wait_for_ready=True)
    return answer.get.subscription.status.backlog


def event_of_another_log():
    """An event that no service under test has."""
    with contextlib.closing(Server()) as server, server.channel() as channel:
        stub = service_grpc.HookstreamServiceStub(channel)
        with contextlib.closing(Sender(server, "there", create_endpoint(stub, "there"))) as sender:
            sender.deliver("avatar_video.success", {"video_id": "v1"})
        [event] = read_kept(stub)
        return event


def run_script(name, command, environment, foreign):
    """Which library the client is made with, and of each point whether it passed."""
    outcomes = {}
    with (
        contextlib.closing(Server(keep_ports=True)) as server,
        contextlib.closing(Script(server, command, environment, foreign)) as script,
    ):
        for title, point in POINTS.items():
            try:
                point(script)
                outcomes[title] = True
            except Exception:
                traceback.print_exc()
                outcomes[title] = False
                script.recover()
            print(f"{name}: {title} {'passed' if outcomes[title] else 'FAILED'}", flush=True)
        return script.client.library, outcomes


def table(rows):
    """The rows as a Markdown table."""
    lines = [["client", "library", *POINTS, "seconds"]]
    lines.append(["---", "---", *[":-:" for _ in POINTS], "--:"])
    for name, (library, outcomes, seconds) in rows.items():
        cells = ["passed" if outcomes[point] else "**failed**" for point in POINTS]
        lines.append([name, library, *cells, f"{seconds:.0f}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description="Takes clients in several languages through one script.")
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CLIENTS)}; all if none is named")
    parser.add_argument("--table", type=pathlib.Path, metavar="FILE", help="write the table there, as Markdown")
    arguments = parser.parse_args()
    if unknown := set(arguments.clients) - set(CLIENTS):
        parser.error(f"there is no client {', '.join(sorted(unknown))}")
    foreign = event_of_another_log()
    rows = {}
    with tempfile.TemporaryDirectory(prefix="hookstream-proto-") as interface:
        write_interface(pathlib.Path(interface))
        environment = {**os.environ, "HOOKSTREAM_PROTO": interface}
        for name in arguments.clients or CLIENTS:
            program, *variant = CLIENTS[name]
            print(f"{name}: installing", flush=True)
            subprocess.run([HERE / program, "--install-only"], env=environment, check=True, timeout=INSTALL_SECONDS_MAX)
            started = time.monotonic()
            library, outcomes = run_script(name, [HERE / program, *variant], environment, foreign)
            rows[name] = library, outcomes, time.monotonic() - started
    print(f"\n{table(rows)}")
    if arguments.table is not None:
        arguments.table.write_text(table(rows))
    outcomes = [passed for _, outcomes, _ in rows.values() for passed in outcomes.values()]
    print(f"{outcomes.count(True)} passed, {outcomes.count(False)} failed")
    sys.exit(not all(outcomes))


if __name__ == "__main__":
    main()
