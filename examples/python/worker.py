# Handles HeyGen's videos as they are done, and comes back whatever happens. In this directory:
#   pip install grpcio-tools==1.85.1
#   python -m grpc_tools.protoc -I ../../proto --python_out=. --grpc_python_out=. ../../proto/hookstream/v1/*.proto
#   python worker.py
import os
import random
import sys
import time

import grpc
from hookstream.v1 import hookstream_service_pb2 as pb, hookstream_service_pb2_grpc as rpc, subscription_pb2

ADDRESS = os.environ.get("HOOKSTREAM_ADDRESS", "127.0.0.1:50051")
SUBSCRIPTION = "videos"


def handle(event):
    """What your backend does. An event can come twice, if rarely: `event.id` says that it is the same."""
    match event.WhichOneof("payload"):
        case "avatar_video_success":
            print("ready", event.entity_id, event.avatar_video_success.url, flush=True)
        case "avatar_video_fail":
            print("failed", event.entity_id, event.avatar_video_fail.msg, flush=True)


def create_subscription(hooks):
    subscription = subscription_pb2.Subscription(name=SUBSCRIPTION, filter={"event_types": ["avatar_video.*"]})
    create = pb.ManageSubscriptionRequest.Create(subscription=subscription, position=pb.POSITION_EARLIEST)
    try:
        hooks.ManageSubscription(pb.ManageSubscriptionRequest(create=create))
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise


def settle(hooks, frame):
    acknowledge = pb.AcknowledgeEventsRequest(subscription=SUBSCRIPTION, ack_ids=[frame.ack_id])
    try:
        handle(frame.event)
        acknowledge.done.SetInParent()
    except Exception as error:
        print(f"{frame.event.id} has to come again: {error!r}", file=sys.stderr)
        acknowledge.retry.SetInParent()
    hooks.AcknowledgeEvents(acknowledge)


keepalive = [("grpc.keepalive_time_ms", 30_000)]  # A connection can die without a word.
hooks, delay = rpc.HookstreamServiceStub(grpc.insecure_channel(ADDRESS, keepalive)), 1
while True:
    try:
        create_subscription(hooks)
        for frame in hooks.SubscribeEvents(pb.SubscribeEventsRequest(subscription=SUBSCRIPTION)):
            delay = 1
            if frame.WhichOneof("frame") == "event":
                settle(hooks, frame)
    except grpc.RpcError as error:
        print(f"reconnecting: {error.details()}", file=sys.stderr)
    time.sleep(random.uniform(0, delay))
    delay = min(delay * 2, 30)
