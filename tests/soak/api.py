"""Calls of the service. Owns connections and credentials, and which refusals are expected: any other is a failure."""

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from client_test import service_grpc
from hookstream.v1 import access_service_pb2_grpc

CALL_SECONDS_MAX = 30
# Without a pool of its own, a channel shares its connection with others of this process. The least backoff is left as it is,
# because it is also how long a connection may take to come about.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
OPTIONS += [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
# What a restart of the service looks like to a client.
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED}


class Interrupted(Exception):
    """A restart of the service ended what was under way."""


class Unexpected(Exception):
    """The service answered otherwise than it has to."""


def reason_of(error):
    """The reason that the service gave for a refusal; empty if it was not the service that refused."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            return error_details_pb2.ErrorInfo.FromString(detail.value).reason
    return ""


class Client:
    """One connection to the service, with one token."""

    def __init__(self, address, token, restarts, options=()):
        self.channel = grpc.aio.insecure_channel(address, [*OPTIONS, *options])
        self.hooks = service_grpc.HookstreamServiceStub(self.channel)
        self.access = access_service_pb2_grpc.AccessServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.restarts = restarts

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.channel.close()

    async def call(self, method, request, *expected):
        """Makes a call. Returns its answer, or none if it is refused for one of the expected reasons."""
        try:
            return await method(request, timeout=CALL_SECONDS_MAX, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            self.judge(error, *expected)
            return None

    async def refused(self, method, request, reason):
        """Makes a call that has to be refused for this reason."""
        if await self.call(method, request, reason) is not None:
            raise Unexpected(f"a call is answered that has to be refused with {reason}: {request}")

    def subscribe(self, request):
        """Opens a stream."""
        return self.hooks.SubscribeEvents(request, metadata=self.metadata)

    def judge(self, error, *expected):
        """Says what a failed call means: the reason if it is expected, an interruption, or a failure."""
        reason = reason_of(error)
        if reason in expected:
            return reason
        if self.restarts and error.code() in PASSING:
            raise Interrupted from error
        raise Unexpected(f"{error.code().name} {reason}: {error.details()}") from error
