"""What operators and backends do beside streams. Owns one round each of making and removing endpoints, tokens and
certificates, and of reading what is kept; every round leaves nothing behind.
"""

import asyncio
import secrets
import time
import urllib.parse

import grpc

from api import CALL_SECONDS_MAX, Client, Interrupted, Unexpected
from client_test import filter_pb2, service_pb2
from hookstream.v1 import access_service_pb2
from load import Sender
from witness import matches

OVERLAP_SECONDS = 60
STREAM_SECONDS_MAX = 20
RELOAD_SECONDS_MAX = 5
PAGES_MAX, PAGE_EVENTS = 3, 20
RECENT_EVENTS = 500
DAY_SECONDS = 24 * 3600


class Changes:
    """The rounds, over one connection of the operator's."""

    def __init__(self, run, client):
        self.run, self.client = run, client
        # Its events are counted on from round to round.
        self.visiting = Sender(run, "visiting", "visiting", "")

    async def manage_endpoint(self, *expected, **operation):
        """One operation on endpoints."""
        request = service_pb2.ManageEndpointRequest(**operation)
        return await self.client.call(self.client.hooks.ManageEndpoint, request, *expected)

    async def manage_token(self, *expected, **operation):
        """One operation on tokens."""
        request = access_service_pb2.ManageTokenRequest(**operation)
        return await self.client.call(self.client.access.ManageToken, request, *expected)

    async def rotate_steady_endpoint(self):
        """Replaces the secret of an endpoint that is in use."""
        sender, secret = self.run.random.choice(self.run.senders), f"whsec_{secrets.token_hex(16)}"
        rotate = service_pb2.ManageEndpointRequest.RotateSecret(name=sender.endpoint, secret=secret)
        rotate.overlap.FromSeconds(OVERLAP_SECONDS)
        while True:
            try:
                await self.manage_endpoint(rotate_secret=rotate)
                break
            except Interrupted:
                await asyncio.sleep(1)
        sender.secret = secret
        self.run.claims.count("secrets rotated")

    async def endpoint_comes_and_goes(self):
        """Makes an endpoint, delivers to it in every way, and removes it."""
        operations, sender = service_pb2.ManageEndpointRequest, self.visiting
        name = sender.endpoint
        # One that an interrupted round left.
        await self.manage_endpoint("ENDPOINT_NOT_FOUND", delete=operations.Delete(name=name))
        answer = await self.manage_endpoint(create=operations.Create(name=name))
        sender.secret = answer.create.secret
        await sender.deliver()
        await sender.forge()
        rotate = operations.RotateSecret(name=name)
        rotate.overlap.FromSeconds(OVERLAP_SECONDS)
        answer = await self.manage_endpoint(rotate_secret=rotate)
        # The secret before still holds.
        await sender.deliver()
        sender.secret = answer.rotate_secret.secret
        await sender.deliver()
        update = operations.Update(name=name, event_types=["avatar_video.*"])
        update.update_mask.paths.append("event_types")
        await self.manage_endpoint(update=update)
        callback = operations.RotateCallbackToken(name=name)
        answer = await self.manage_endpoint(rotate_callback_token=callback)
        await sender.deliver_callback(urllib.parse.urlsplit(answer.rotate_callback_token.callback_url).path)
        await self.manage_endpoint(delete=operations.Delete(name=name))
        await sender.post(b"{}", 404)
        get = service_pb2.ManageEndpointRequest(get=operations.Get(name=name))
        await self.client.refused(self.client.hooks.ManageEndpoint, get, "ENDPOINT_NOT_FOUND")
        sender.connection.close()
        self.run.claims.count("endpoints")

    async def token_comes_and_goes(self):
        """Makes a token, follows a stream with it, and ends it: by revoking it, or by its age."""
        operations, name = access_service_pb2.ManageTokenRequest, "visiting"
        await self.manage_token("TOKEN_NOT_FOUND", revoke=operations.Revoke(name=name))
        endpoint = self.run.random.choice(self.run.senders).endpoint
        event_filter = filter_pb2.EventFilter(endpoints=[endpoint])
        create = operations.Create(name=name, scopes=["events:read"], filter=event_filter)
        expires = self.run.random.random() < 0.5
        if expires:
            create.expires_in.FromSeconds(2)
        answer = await self.manage_token(create=create)
        service = self.run.service
        async with Client(service.addresses["grpc"], answer.create.secret, self.run.restarts) as client:
            delete = service_pb2.ManageEndpointRequest.Delete(name=endpoint)
            request = service_pb2.ManageEndpointRequest(delete=delete)
            await client.refused(client.hooks.ManageEndpoint, request, "SCOPE_MISSING")
            await client.refused(client.hooks.ListEvents, service_pb2.ListEventsRequest(), "NOT_VISIBLE")
            frames = client.subscribe(service_pb2.SubscribeEventsRequest(filter=event_filter))
            try:
                async with asyncio.timeout(STREAM_SECONDS_MAX):
                    async for frame in frames:
                        if frame.WhichOneof("frame") == "event" and frame.event.endpoint != endpoint:
                            self.run.claims.fail("a token sees no more than it may", frame.event.endpoint)
                        if frame.WhichOneof("frame") == "caught_up" and not expires:
                            await self.manage_token(revoke=operations.Revoke(name=name))
                raise Unexpected("a stream ends without an error when its token does")
            except TimeoutError:
                raise Unexpected("a stream goes on without its token") from None
            except grpc.aio.AioRpcError as error:
                client.judge(error, "CREDENTIALS_ENDED")
            finally:
                frames.cancel()
            reason = "CREDENTIALS_ENDED" if expires else "CREDENTIALS_UNKNOWN"
            listing = service_pb2.ListEventsRequest(filter=event_filter)
            await client.refused(client.hooks.ListEvents, listing, reason)
        if expires:
            await self.manage_token("TOKEN_NOT_FOUND", revoke=operations.Revoke(name=name))
        self.run.claims.count("tokens")

    async def reload_certificate(self):
        """Replaces the certificate of the admin side, and waits until the service uses it."""
        days = await self.run.service.reload()
        expected = time.time() + days * DAY_SECONDS
        ends_at = time.monotonic() + RELOAD_SECONDS_MAX
        while True:
            # Until then the service's certificate is not the one that is trusted here.
            try:
                series = await self.run.service.metrics()
                expiry = series['hookstream_tls_certificate_expiry_timestamp_seconds{listener="admin"}']
                if abs(expiry - expected) < DAY_SECONDS / 2:
                    break
            except OSError:
                pass
            if time.monotonic() > ends_at:
                raise Unexpected("a certificate is not in use after a SIGHUP")
            await asyncio.sleep(0.1)
        self.run.claims.count("certificates")

    async def read(self):
        """Reads what is kept, in one of the ways there are."""
        ways = (self.list_events, self.get_event, self.await_event, self.await_nothing, self.list_everything_else)
        await self.run.random.choice(ways)()
        self.run.claims.count("reads")

    async def list_events(self):
        """Pages through the newest events."""
        event_filter = self.run.random.choice([{}, {"event_types": ["*.fail"]}, {"event_types": ["avatar_video.*"]}])
        request = service_pb2.ListEventsRequest(filter=filter_pb2.EventFilter(**event_filter), page_size=PAGE_EVENTS)
        last_sequence = None
        for _ in range(PAGES_MAX):
            answer = await self.client.call(self.client.hooks.ListEvents, request)
            for event in answer.events:
                holds = (last_sequence is None or event.sequence < last_sequence) and matches(event_filter, event)
                self.run.claims.check(holds, "pages hold the matching events, newest first", event.id)
                last_sequence = event.sequence
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def get_event(self):
        """Returns a recent event by its id."""
        seen = self.run.witness.seen
        event = seen[-self.run.random.randint(1, min(RECENT_EVENTS, len(seen)))]
        answer = await self.client.call(self.client.hooks.GetEvent, service_pb2.GetEventRequest(id=event.id))
        self.run.claims.check(answer.event.sequence == event.sequence, "an event is found by its id", event.id)

    async def await_event(self):
        """Waits for the next event of an endpoint."""
        start, endpoint = self.run.witness.seen[-1], self.run.random.choice(self.run.senders).endpoint
        event_filter = filter_pb2.EventFilter(endpoints=[endpoint])
        request = service_pb2.AwaitEventRequest(filter=event_filter, after_cursor=start.cursor)
        request.timeout.FromSeconds(CALL_SECONDS_MAX - 1)
        # At the end of the run nothing comes any more.
        answer = await self.client.call(self.client.hooks.AwaitEvent, request, "NO_EVENT_IN_TIME")
        if answer is None:
            self.run.claims.check(self.run.ending.is_set(), "an event that is awaited comes", endpoint)
            return
        await self.run.witness.reaches(answer.event.sequence)
        [first, *_] = self.run.witness.between(start.sequence, answer.event.sequence, {"endpoints": [endpoint]})
        self.run.claims.check(answer.event.id == first, "the first event that matches is awaited", answer.event.id)

    async def await_nothing(self):
        """Waits in vain."""
        request = service_pb2.AwaitEventRequest(filter=filter_pb2.EventFilter(callback_ids=["nobody/1"]))
        request.timeout.FromSeconds(1)
        await self.client.refused(self.client.hooks.AwaitEvent, request, "NO_EVENT_IN_TIME")

    async def list_everything_else(self):
        """Lists types, endpoints, subscriptions, tokens and the audit trail."""
        hooks, access = self.client.hooks, self.client.access
        answer = await self.client.call(hooks.ListEventTypes, service_pb2.ListEventTypesRequest())
        names = {event_type.name for event_type in answer.event_types}
        self.run.claims.check(names >= set(self.run.types), "all event types are listed")
        await self.manage_endpoint(list=service_pb2.ManageEndpointRequest.List())
        subscriptions = service_pb2.ManageSubscriptionRequest(list=service_pb2.ManageSubscriptionRequest.List())
        await self.client.call(hooks.ManageSubscription, subscriptions)
        await self.manage_token(list=access_service_pb2.ManageTokenRequest.List())
        records = await self.client.call(access.ListAuditRecords, access_service_pb2.ListAuditRecordsRequest())
        self.run.claims.check(records.records, "changes are in the audit trail")
