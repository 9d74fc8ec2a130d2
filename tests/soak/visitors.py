"""Streams that come and go. Owns what each kind of visitor does, and compares what it got with what the witness saw."""

import asyncio
import time

import grpc

from api import Client
from client_test import filter_pb2, service_pb2

# A client that is gone without a word is pinged after 30 s and given up 20 s later.
VANISHED_SECONDS_MAX = 55
FOLLOW_SECONDS_MIN, FOLLOW_SECONDS_MAX = 2, 20
SLOW_SECONDS, SLOW_READ_SECONDS = 30, 0.2
# The least that grpc takes in advance, so that a slow reader really holds up its connection.
SLOW_OPTIONS = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]
RECENT_SECONDS = 10
RELAY_READ_BYTES = 64 * 1024


class Visitors:
    """What visitors do."""

    def __init__(self, run):
        self.run = run

    def client(self, options=(), address=None):
        """A connection of a visitor's own."""
        service = self.run.service
        return Client(address or service.addresses["grpc"], service.token, self.run.restarts, options)

    async def visit(self):
        """One visit, of a kind that is left to chance."""
        kinds = {self.follow: 6, self.replay: 3, self.read_slowly: 1}
        [kind] = self.run.random.choices(list(kinds), kinds.values())
        await kind()
        self.run.claims.count("visits")

    def any_filter(self):
        """Some filter, or none."""
        random = self.run.random
        family = random.choice(self.run.types).split(".")[0]
        filters = [
            {},
            {"event_types": [f"{family}.*"]},
            {"event_types": ["*.fail"]},
            {"event_types": ["*.success"], "endpoints": [random.choice(self.run.senders).endpoint]},
            {"endpoints": [random.choice(self.run.senders).endpoint]},
        ]
        return random.choice(filters)

    async def follow(self):
        """Follows what is live from where the witness is, and leaves: it ends its stream, or closes its connection."""
        event_filter, start = self.any_filter(), self.run.witness.seen[-1]
        request = service_pb2.SubscribeEventsRequest(
            filter=filter_pb2.EventFilter(**event_filter), after_cursor=start.cursor
        )
        request.heartbeat_interval.FromSeconds(1)
        received, caught_up = [], 0
        async with self.client() as client:
            frames = client.subscribe(request)
            try:
                async with self.run.until_the_end(self.run.random.uniform(FOLLOW_SECONDS_MIN, FOLLOW_SECONDS_MAX)):
                    async for frame in frames:
                        if frame.WhichOneof("frame") == "event":
                            received.append((frame.event.sequence, frame.event.id))
                        caught_up += frame.WhichOneof("frame") == "caught_up"
            except TimeoutError:
                pass
            except grpc.aio.AioRpcError as error:
                client.judge(error)
            if self.run.random.random() < 0.5:
                frames.cancel()
        self.run.claims.check(caught_up <= 1, "a stream is caught up once", caught_up)
        await self.compare(received, start.sequence, event_filter)

    async def replay(self):
        """Reads what is kept: a little of everything, or all about one type or one entity."""
        random = self.run.random
        # An event of a type that the service does not know is about nothing that it knows.
        some_entity = random.choice([event.entity_id for event in self.run.witness.seen if event.entity_id])
        event_filter = random.choice(
            [
                {},
                {"event_types": [random.choice(self.run.types)]},
                {"entity_ids": [some_entity]},
            ]
        )
        request = service_pb2.SubscribeEventsRequest(filter=filter_pb2.EventFilter(**event_filter), stop_at_tail=True)
        if event_filter:
            request.position = service_pb2.POSITION_EARLIEST
        else:
            request.since.FromMilliseconds(int((time.time() - RECENT_SECONDS) * 1000))
        received = []
        async with self.client() as client:
            try:
                async for frame in client.subscribe(request):
                    if frame.WhichOneof("frame") == "event":
                        received.append((frame.event.sequence, frame.event.id))
            except grpc.aio.AioRpcError as error:
                # Retention may overtake a stream that reads its oldest events.
                client.judge(error, "CURSOR_TRIMMED")
        if received:
            await self.compare(received, received[0][0] - 1, event_filter)

    async def compare(self, received, after_sequence, event_filter):
        """Claims that a stream got what the witness saw, in order and each once."""
        if not received:
            return
        through_sequence = received[-1][0]
        await self.run.witness.reaches(through_sequence)
        expected = self.run.witness.between(after_sequence, through_sequence, event_filter)
        self.run.claims.check(
            [id for _, id in received] == expected,
            "a stream gets exactly the matching events, in order",
            f"{len(received)} of {len(expected)} after {after_sequence} with {event_filter}",
        )

    async def read_slowly(self):
        """Reads from the beginning, more slowly than events come: retention overtakes it, or it leaves before."""
        request = service_pb2.SubscribeEventsRequest(position=service_pb2.POSITION_EARLIEST, continue_after_gap=True)
        last_sequence = 0
        async with self.client(SLOW_OPTIONS) as client:
            frames = client.subscribe(request)
            try:
                async with self.run.until_the_end(SLOW_SECONDS):
                    async for frame in frames:
                        if frame.WhichOneof("frame") == "event":
                            sequence = frame.event.sequence
                            self.run.claims.check(sequence > last_sequence, "a slow reader gets events in order")
                            last_sequence = sequence
                        await asyncio.sleep(SLOW_READ_SECONDS)
            except TimeoutError:
                pass
            except grpc.aio.AioRpcError as error:
                client.judge(error)

    async def vanish(self):
        """Loses the network: its connection is not closed, but nothing comes over it any more."""
        if self.run.seconds_left() < VANISHED_SECONDS_MAX:
            await self.run.pause(VANISHED_SECONDS_MAX)
            return
        relay = Relay(self.run.service.addresses["grpc"])
        async with relay.listening() as address, self.client(address=address) as client:
            frames = client.subscribe(service_pb2.SubscribeEventsRequest())
            try:
                async with asyncio.timeout(FOLLOW_SECONDS_MIN):
                    async for _ in frames:
                        pass
            except TimeoutError:
                pass
            except grpc.aio.AioRpcError as error:
                client.judge(error)
            relay.cut()
        await asyncio.sleep(VANISHED_SECONDS_MAX)
        self.run.claims.check(await relay.is_closed(), "the service gives up a client that vanished")
        self.run.claims.count("clients that vanished")


class Relay:
    """A line between a client and the service that can be cut so that only the client notices."""

    def __init__(self, address):
        self.host, _, self.port = address.rpartition(":")
        self.pumps = []
        self.reader = self.writer = None

    def listening(self):
        """Takes the client's connection; gives the address for it."""
        return _Listening(self)

    async def carry(self, client_reader, client_writer):
        """Carries what client and service say."""
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=RELAY_READ_BYTES)
        pairs = ((client_reader, self.writer), (self.reader, client_writer))
        self.pumps = [asyncio.create_task(self._pump(*pair)) for pair in pairs]
        try:
            await asyncio.wait(self.pumps)
        finally:
            client_writer.close()

    @staticmethod
    async def _pump(reader, writer):
        while data := await reader.read(RELAY_READ_BYTES):
            writer.write(data)
            await writer.drain()

    def cut(self):
        """From now on nothing gets through."""
        for pump in self.pumps:
            pump.cancel()

    async def is_closed(self):
        """Whether the service has closed its end: behind what was on the way lies the end of the connection."""
        try:
            async with asyncio.timeout(1):
                while await self.reader.read(RELAY_READ_BYTES):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        finally:
            self.writer.close()
        return True


class _Listening:
    """The socket that a relay's client connects to."""

    def __init__(self, relay):
        self.relay = relay
        self.server = None

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.relay.carry, "127.0.0.1", 0)
        host, port = self.server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def __aexit__(self, *_):
        self.server.close()
