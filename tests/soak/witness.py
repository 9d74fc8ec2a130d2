"""The stream that sees everything. Owns it, and the memory of the last minutes that other streams are compared with."""

import asyncio
import collections
import time
from typing import NamedTuple

import grpc

from api import Client, Interrupted
from client_test import service_pb2

# How long an event is remembered: longer than a stream of a visitor lasts, and than retention keeps it.
MEMORY_SECONDS = 240
# Even without restarts it comes back with its cursor now and then.
RECONNECT_SECONDS = 20
RETRY_SECONDS = 0.2


class Seen(NamedTuple):
    """What is remembered of an event."""

    at: float
    sequence: int
    id: str
    cursor: str
    type_name: str
    entity_id: str
    callback_id: str
    endpoint: str


def matches(event_filter, event):
    """The rule of `EventFilter`, which is a dict of its fields here."""

    def is_of(pattern):
        if pattern.endswith(".*"):
            return event.type_name.startswith(pattern[:-1])
        return event.type_name.endswith(pattern[1:]) if pattern.startswith("*.") else event.type_name == pattern

    rules = {
        "event_types": lambda values: any(map(is_of, values)),
        "entity_ids": lambda values: event.entity_id in values,
        "callback_ids": lambda values: event.callback_id in values,
        "endpoints": lambda values: event.endpoint in values,
    }
    return all(rules[field](values) for field, values in event_filter.items())


class Witness:
    """Follows the whole log, from its beginning."""

    def __init__(self, run):
        self.run = run
        self.seen = collections.deque()
        self.cursor = None
        self.sequence = 0
        self.received = 0
        # Told of every event.
        self.listeners = set()

    async def follow(self):
        """Follows until it is cancelled."""
        async with Client(self.run.service.addresses["grpc"], self.run.service.token, self.run.restarts) as client:
            while True:
                try:
                    async with asyncio.timeout(RECONNECT_SECONDS):
                        await self._read(client)
                except (TimeoutError, Interrupted):
                    await asyncio.sleep(RETRY_SECONDS)

    async def _read(self, client):
        request = service_pb2.SubscribeEventsRequest(after_cursor=self.cursor)
        if self.cursor is None:
            request.position = service_pb2.POSITION_EARLIEST
        frames = client.subscribe(request)
        try:
            async for frame in frames:
                kind = frame.WhichOneof("frame")
                if kind == "event":
                    self._take(frame.event)
                elif kind != "gap":
                    self.cursor = getattr(frame, kind).cursor
        except grpc.aio.AioRpcError as error:
            client.judge(error, "DRAINING")
        finally:
            frames.cancel()

    def _take(self, event):
        self.run.claims.check(
            event.sequence > self.sequence, "sequences rise", f"{event.sequence} after {self.sequence}"
        )
        self.cursor, self.sequence = event.cursor, event.sequence
        self.received += 1
        self.run.ledger.arrive(event.raw_body)
        now = time.monotonic()
        seen = Seen(
            now,
            event.sequence,
            event.id,
            event.cursor,
            event.type_name,
            event.entity_id,
            event.callback_id,
            event.endpoint,
        )
        self.seen.append(seen)
        while self.seen[0].at < now - MEMORY_SECONDS:
            self.seen.popleft()
        for listener in self.listeners:
            listener(seen)

    async def reaches(self, sequence):
        """Waits until it has seen as much as somebody else."""
        while self.sequence < sequence:
            await asyncio.sleep(0.05)

    def between(self, after_sequence, through_sequence, event_filter):
        """The ids of the matching events of a part of the log."""
        part = (event for event in self.seen if after_sequence < event.sequence <= through_sequence)
        return [event.id for event in part if matches(event_filter, event)]
