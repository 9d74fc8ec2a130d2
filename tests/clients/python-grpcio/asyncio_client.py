"""A client with grpcio's asyncio interface. What it does is said in `program.py`."""

import asyncio
import json
import os
import sys

import grpc
from hookstream.v1 import filter_pb2, hookstream_service_pb2 as pb, hookstream_service_pb2_grpc as rpc, subscription_pb2
from printed import error_of, event_of, say

RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.1, 5


class Client:
    """One connection to the service."""

    def __init__(self, channel):
        self.hooks = rpc.HookstreamServiceStub(channel)

    async def create_endpoint(self, name):
        create = pb.ManageEndpointRequest.Create(name=name)
        answer = await self.hooks.ManageEndpoint(pb.ManageEndpointRequest(create=create))
        return {"secret": answer.create.secret}

    async def follow(self, endpoint, event_types, until_entity, after_cursor=None):
        """Follows a filter up to the event about this entity, over lost connections and restarts of the service."""
        request = pb.SubscribeEventsRequest(
            filter=filter_pb2.EventFilter(endpoints=[endpoint], event_types=event_types), after_cursor=after_cursor
        )
        delay = RETRY_SECONDS_MIN
        while True:
            frames = self.hooks.SubscribeEvents(request)
            try:
                async for frame in frames:
                    delay = RETRY_SECONDS_MIN
                    match frame.WhichOneof("frame"):
                        case "event":
                            request.after_cursor = frame.event.cursor
                            say(event=event_of(frame.event))
                            if frame.event.entity_id == until_entity:
                                frames.cancel()
                                return {"cursor": request.after_cursor}
                        case "caught_up":
                            request.after_cursor = frame.caught_up.cursor
                            say(caught_up={"cursor": request.after_cursor})
                        case "heartbeat":
                            request.after_cursor = frame.heartbeat.cursor
                            say(heartbeat={"cursor": request.after_cursor})
                        case "draining":
                            request.after_cursor = frame.draining.cursor
                            delay = frame.draining.reconnect_after.ToTimedelta().total_seconds()
                            say(draining={"cursor": request.after_cursor})
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                say(reconnecting=error_of(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_SECONDS_MAX)

    async def list(self, endpoint, event_types, page_size):
        request = pb.ListEventsRequest(
            filter=filter_pb2.EventFilter(endpoints=[endpoint], event_types=event_types),
            order=pb.ORDER_OLDEST_FIRST,
            page_size=page_size,
        )
        while True:
            answer = await self.hooks.ListEvents(request)
            say(page=[event.entity_id for event in answer.events])
            if not answer.next_page_token:
                return {}
            request.page_token = answer.next_page_token

    async def get(self, id):
        answer = await self.hooks.GetEvent(pb.GetEventRequest(id=id))
        return {"event": event_of(answer.event)}

    async def await_event(self, endpoint, entity_id, timeout_ms, after_cursor=None):
        event_filter = filter_pb2.EventFilter(endpoints=[endpoint], entity_ids=[entity_id])
        request = pb.AwaitEventRequest(filter=event_filter, after_cursor=after_cursor)
        request.timeout.FromMilliseconds(timeout_ms)
        answer = await self.hooks.AwaitEvent(request)
        return {"event": event_of(answer.event)}

    async def create_subscription(self, name, endpoint, retry_delay_ms):
        subscription = subscription_pb2.Subscription(name=name, filter=filter_pb2.EventFilter(endpoints=[endpoint]))
        subscription.min_retry_delay.FromMilliseconds(retry_delay_ms)
        create = pb.ManageSubscriptionRequest.Create(subscription=subscription)
        await self.hooks.ManageSubscription(pb.ManageSubscriptionRequest(create=create))
        return {}

    async def work(self, subscription, count):
        """Works a subscription for so many attempts."""
        frames = self.hooks.SubscribeEvents(pb.SubscribeEventsRequest(subscription=subscription))
        async for frame in frames:
            if frame.WhichOneof("frame") != "event":
                continue
            acknowledge = pb.AcknowledgeEventsRequest(subscription=subscription, ack_ids=[frame.ack_id])
            match frame.event.WhichOneof("payload"):
                case "avatar_video_success":
                    acknowledge.done.SetInParent()
                case "avatar_video_fail":
                    acknowledge.reject.SetInParent()
                case _ if frame.delivery_attempt == 1:
                    acknowledge.retry.SetInParent()
                case _:
                    acknowledge.done.SetInParent()
            answer = await self.hooks.AcknowledgeEvents(acknowledge)
            [result] = answer.results
            outcome = acknowledge.WhichOneof("outcome")
            attempt = {"entity_id": frame.event.entity_id, "attempt": frame.delivery_attempt}
            say(attempt={**attempt, "outcome": outcome, "result": result})
            count -= 1
            if count == 0:
                frames.cancel()
                return {}

    async def dead_letters(self, subscription):
        answer = await self.hooks.ListEvents(pb.ListEventsRequest(dead_letters_of=subscription))
        dead_letters = [
            {"entity_id": event.entity_id, "attempts": dead.attempts, "reason": dead.reason}
            for event, dead in zip(answer.events, answer.dead_letters)
        ]
        return {"dead_letters": dead_letters}


async def main():
    async with grpc.aio.insecure_channel(os.environ["HOOKSTREAM_ADDRESS"]) as channel:
        client = Client(channel)
        say(library=f"grpcio {grpc.__version__} (grpc.aio)")
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            try:
                say(done=await getattr(client, order.pop("do"))(**order))
            except grpc.RpcError as error:
                say(error=error_of(error))


if __name__ == "__main__":
    asyncio.run(main())
