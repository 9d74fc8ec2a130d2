"""The script: ten points that every client has to pass. Owns what counts as passed."""

import contextlib
import json
import pathlib
import signal
import sqlite3

from client_test import Load, Sender, read_kept, service_grpc, service_pb2
from program import SECONDS_MAX, Client, Failure, expect, expect_same, until

# Beyond 2^53: as a double it is another number.
LARGE_NUMBER = 9007199254740993
KILLS = 3
EVENTS_BETWEEN_KILLS = 100


def begin_beyond_doubles(server):
    """Moves the log of a new service to where a client that reads a sequence as a double gets another one."""
    server.process.terminate()
    expect(server.process.wait(SECONDS_MAX), 0)
    with contextlib.closing(sqlite3.connect(pathlib.Path(server.directory.name) / "log.db")) as database, database:
        # As if retention had removed everything up to there.
        database.execute("UPDATE log SET trimmed = ?", (LARGE_NUMBER,))
    server.start()


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
        """Creates an endpoint; deliveries signed with its secret are accepted."""
        secret = self.client.ask("create_endpoint", name="videos")["secret"]
        self.sender = Sender(self.server, "videos", secret)
        self.deliver("created")

    def subscribes_with_a_filter(self):
        """Follows new events by patterns of their types, and gets no others."""
        self.follow("second", ["avatar_video.*", "*.fail"])
        self.sender.deliver("avatar_video_gif.success", {"video_id": "filtered"})
        self.deliver("first")
        self.sender.deliver("video_translate.fail", {"video_translate_id": "second"})
        self.see_events("first", "second")
        self.client.see("done")

    def receives_typed_events(self):
        """Reads typed payloads, text that is not ASCII, the signed bytes and numbers beyond 2^53 as they were sent."""
        self.follow("other")
        bodies = [
            self.sender.deliver(
                "avatar_video.success", {"video_id": "typed", "url": "https://a.example/1", "n": LARGE_NUMBER}
            ),
            self.sender.deliver("avatar_video.fail", {"video_id": "failed", "msg": "zu groß – 太大"}),
            self.sender.deliver("video_agent.success", {"session_id": "other"}),
        ]
        events = self.see_events("typed", "failed", "other")
        self.client.see("done")
        expect(
            [event["payload"] for event in events], ["avatar_video_success", "avatar_video_fail", "video_agent_success"]
        )
        expect([event["text"] for event in events], ["https://a.example/1", "zu groß – 太大", ""])
        expect([event["type"] for event in events], [1, 2, 11])
        expect([event["raw_body"].encode() for event in events], bodies)
        expect(json.loads(events[0]["raw_body"])["event_data"]["n"], LARGE_NUMBER)
        with self.server.channel() as channel:
            kept = read_kept(service_grpc.HookstreamServiceStub(channel), entity_ids=["typed", "failed", "other"])
        expect(
            [(event["sequence"], event["id"]) for event in events], [(str(event.sequence), event.id) for event in kept]
        )
        expect(all(event.sequence > LARGE_NUMBER for event in kept), True)

    def goes_on_after_a_kill(self):
        """Goes on from its cursor while the service is killed three times: no event is missed, none comes twice."""
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
            *frames, _ = service_grpc.HookstreamServiceStub(channel).SubscribeEvents(request, timeout=SECONDS_MAX)
        kept = [(str(frame.event.sequence), frame.event.raw_body.decode()) for frame in frames]
        expect_same([(event["sequence"], event["raw_body"]) for event in events], kept)
        # The first and the last are not the load's.
        expect(len(kept) - 2, load.count())

    def lists_pages(self):
        """Lists what is stored, page by page."""
        videos = [f"page-{number}" for number in range(7)]
        for video in videos:
            self.sender.deliver("avatar_video_caption.success", {"video_id": video})
        self.client.tell("list", endpoint="videos", event_types=["avatar_video_caption.success"], page_size=3)
        pages = [self.client.see("page") for _ in range(3)]
        self.client.see("done")
        expect(pages, [videos[:3], videos[3:6], videos[6:]])

    def awaits(self):
        """Waits for one event: in vain, for one that is there already, and for one that comes after the call."""
        refusal, metadata = self.client.refused("await_event", endpoint="videos", entity_id="awaited", timeout_ms=100)
        expect(refusal, ("DEADLINE_EXCEEDED", "NO_EVENT_IN_TIME", []))
        self.deliver("another", "awaited")
        arguments = {"endpoint": "videos", "entity_id": "awaited", "timeout_ms": SECONDS_MAX * 1000}
        found = self.client.ask("await_event", **arguments, after_cursor=metadata["cursor"])["event"]
        expect(found["entity_id"], "awaited")
        # Now with the delivery after the call.
        self.client.tell("await_event", **arguments, after_cursor=found["cursor"])
        self.sender.deliver("avatar_video.fail", {"video_id": "awaited"})
        expect(self.client.see("done")["event"]["payload"], "avatar_video_fail")

    def works_a_subscription(self):
        """Works a subscription: done, retried and rejected to the dead letters; then its stream ends."""
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
            stub = service_grpc.HookstreamServiceStub(channel)
            expect(status_of(stub, "work").backlog, 0)
            # In some libraries a stream goes on when the program has left the loop over it, and holds events.
            until("the stream has ended", lambda: status_of(stub, "work").connected_streams == 0)

    def survives_what_it_does_not_know(self):
        """Gets events of types, and with fields, that its stubs do not know, and what is in them."""
        self.follow("more")
        self.sender.deliver(
            "galaxy.unknown", {"id": "unknown", "extra": "a field of tomorrow"}, envelope_of_tomorrow=[1]
        )
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
        """Reads the code, the reason and the invalid fields of refusals."""
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
        """Is told of a drain, and goes on with the service that comes after it."""
        self.follow("after the drain")
        self.deliver("before the drain")
        [event] = self.see_events("before the drain")
        self.server.process.send_signal(signal.SIGTERM)
        expect(self.client.see("draining")["cursor"], event["cursor"])
        lost = self.client.see("reconnecting")
        expect((lost["code"], lost["reason"]), ("UNAVAILABLE", "DRAINING"))
        expect(self.server.process.wait(SECONDS_MAX), 0)
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


def status_of(stub, name):
    """How a subscription stands."""
    get = service_pb2.ManageSubscriptionRequest(get=service_pb2.ManageSubscriptionRequest.Get(name=name))
    answer = stub.ManageSubscription(get, timeout=SECONDS_MAX, wait_for_ready=True)
    return answer.get.subscription.status
