"""The interface as a Python client sees it: stubs generated from `proto/`, the release binary, real sockets.

Owns what only a foreign library can tell (its recursion limit, its size limit, its reading of error details) and the
promise as a whole: what was answered 200 is streamed once and in order, however often the service is killed.

HOOKSTREAM_BINARY is the binary (default: target/release/hookstream), HOOKSTREAM_SEED repeats a run of the kill test.
"""

import hashlib
import hmac
import http.client
import itertools
import json
import os
import pathlib
import queue
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc
from google.protobuf import descriptor_pool, json_format, timestamp_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARY = pathlib.Path(os.environ.get("HOOKSTREAM_BINARY", ROOT / "target/release/hookstream")).resolve()
SERVICE = "hookstream.v1.HookstreamService"
CALL_SECONDS_MAX = 20


def generate_stubs(directory):
    """Generates the stubs of `proto/` into a directory and returns their modules."""
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    paths = [f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={directory}", f"--grpc_python_out={directory}"]
    files = sorted(str(file) for file in (ROOT / "proto").rglob("*.proto"))
    if protoc.main(["protoc", *paths, *files]) != 0:
        raise RuntimeError("the stubs cannot be generated")
    sys.path.insert(0, str(directory))
    from hookstream.v1 import event_pb2, filter_pb2, hookstream_service_pb2, hookstream_service_pb2_grpc

    return event_pb2, filter_pb2, hookstream_service_pb2, hookstream_service_pb2_grpc


STUBS = tempfile.TemporaryDirectory(prefix="hookstream-stubs-")
event_pb2, filter_pb2, service_pb2, service_grpc = generate_stubs(STUBS.name)


class Server:
    """One `hookstream serve` on a temporary data directory; a restart keeps directory and ports."""

    def __init__(self, keep_ports=False):
        self.directory = tempfile.TemporaryDirectory(prefix="hookstream-data-")
        self.addresses = {"ingress": "127.0.0.1:0", "grpc": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        self.reserved = [socket.socket() for _ in self.addresses] if keep_ports else []
        # Between two runs somebody else could be given the port; one that is bound here is given to nobody, and as it
        # is not listened on here, the service can.
        for name, reserved in zip(self.addresses, self.reserved):
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            self.addresses[name] = f"127.0.0.1:{reserved.getsockname()[1]}"
        self.start()

    def start(self):
        """Starts the process and waits for its ready line."""
        listen = [f"--{name}-listen={address}" for name, address in self.addresses.items()]
        arguments = ["serve", *listen, f"--data-dir={self.directory.name}", "--log-format=json"]
        self.process = subprocess.Popen([BINARY, *arguments], stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True)
        self.reader.start()
        seen = []
        while (line := self.lines.get(timeout=CALL_SECONDS_MAX)) is not None:
            seen.append(line)
            ready = json.loads(line)
            if ready["message"] == "ready":
                self.addresses = {name: ready[name] for name in self.addresses}
                return
        raise RuntimeError(f"the service ended before it was ready: {seen}")

    # With its own queue: a process that ended may be read to its end only when the next one has started.
    @staticmethod
    def _read(stdout, lines):
        with stdout:
            for line in stdout:
                lines.put(line)
        lines.put(None)

    def kill(self):
        """Ends the process without warning (SIGKILL)."""
        self.process.kill()
        self.process.wait()
        self.reader.join()

    def close(self):
        """Drains the process and removes its data."""
        self.process.terminate()
        try:
            self.process.wait(CALL_SECONDS_MAX)
        finally:
            self.kill()
            self.directory.cleanup()
            for reserved in self.reserved:
                reserved.close()

    def channel(self):
        """A channel that finds a restarted service quickly."""
        # The least backoff is left as it is, because it is also how long a connection may take to come about.
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        return grpc.insecure_channel(self.addresses["grpc"], options)

    def metric(self, line_start):
        """The value of the first metric whose line starts like this; 0 if there is none."""
        connection = http.client.HTTPConnection(self.addresses["admin"], timeout=CALL_SECONDS_MAX)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(line_start)), 0)


class Sender:
    """Plays HeyGen for one endpoint: signs the raw body with the whole secret, keeps its connection alive."""

    def __init__(self, server, endpoint, secret):
        self.server, self.endpoint, self.secret = server, endpoint, secret
        self.connection = None

    def deliver(self, event_type, data, **envelope):
        """Delivers an event and asserts that it is stored."""
        body = json.dumps({"event_type": event_type, "event_data": data, **envelope}).encode()
        status = self.post(body)
        assert status == 200, f"a delivery was answered with {status}"
        return body

    def post(self, body, signature=None):
        """Posts a body once and returns the status of the answer."""
        if signature is None:
            signature = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.server.addresses["ingress"], timeout=CALL_SECONDS_MAX)
        headers = {"Content-Type": "application/json", "Signature": signature}
        try:
            self.connection.request("POST", f"/webhooks/{self.endpoint}", body, headers)
            answer = self.connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def close(self):
        """Gives up the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def create_endpoint(stub, name):
    """Makes an endpoint and returns its secret."""
    create = service_pb2.ManageEndpointRequest.Create(name=name)
    answer = stub.ManageEndpoint(service_pb2.ManageEndpointRequest(create=create), timeout=CALL_SECONDS_MAX)
    assert answer.WhichOneof("result") == "create"
    assert answer.create.endpoint.name == name
    return answer.create.secret


def read_kept(stub, **event_filter):
    """All kept events that match, from EARLIEST to the tail."""
    request = service_pb2.SubscribeEventsRequest(
        filter=filter_pb2.EventFilter(**event_filter), position=service_pb2.POSITION_EARLIEST, stop_at_tail=True
    )
    frames = list(stub.SubscribeEvents(request, timeout=CALL_SECONDS_MAX, wait_for_ready=True))
    assert [frame.WhichOneof("frame") for frame in frames] == ["event"] * (len(frames) - 1) + ["caught_up"]
    return [frame.event for frame in frames[:-1]]


def details_of(error):
    """The error details of a failed call, by message type."""
    found = {}
    for detail in rpc_status.from_call(error).details:
        for kind in (error_details_pb2.BadRequest, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo):
            if detail.Is(kind.DESCRIPTOR):
                found[kind] = kind.FromString(detail.value)
    return found


def nested(levels):
    """An `event_data` of so many levels of objects."""
    data = {"leaf": "here"}
    for _ in range(levels - 1):
        data = {"in": data}
    return data


class ClientTest(unittest.TestCase):
    """One service for all; every test has an endpoint of its own and filters by it."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)
        cls.channel = cls.server.channel()
        cls.addClassCleanup(cls.channel.close)
        cls.stub = service_grpc.HookstreamServiceStub(cls.channel)
        cls.names = (f"endpoint-{number}" for number in itertools.count(1))

    def setUp(self):
        self.endpoint = next(self.names)
        self.sender = Sender(self.server, self.endpoint, create_endpoint(self.stub, self.endpoint))
        self.addCleanup(self.sender.close)

    def kept(self, **event_filter):
        return read_kept(self.stub, endpoints=[self.endpoint], **event_filter)

    def refusal(self, call, request):
        """The code and the details with which a call is refused."""
        with self.assertRaises(grpc.RpcError) as refused:
            answer = call(request, timeout=CALL_SECONDS_MAX)
            if isinstance(answer, grpc.Call):
                next(answer)
        return refused.exception.code(), details_of(refused.exception)

    def assert_refused(self, call, request, code, reason, field=None):
        """Asserts status, reason and field of a refusal; returns the reason's metadata."""
        found_code, details = self.refusal(call, request)
        self.assertEqual(found_code, code)
        info = details[error_details_pb2.ErrorInfo]
        self.assertEqual((info.domain, info.reason), ("hookstream", reason))
        violations = details.get(error_details_pb2.BadRequest, error_details_pb2.BadRequest()).field_violations
        self.assertEqual([violation.field for violation in violations], [field] if field else [])
        return dict(info.metadata)

    def test_a_stream_sends_the_typed_events_of_a_family(self):
        event_filter = filter_pb2.EventFilter(event_types=["avatar_video.*"], endpoints=[self.endpoint])
        frames = self.stub.SubscribeEvents(
            service_pb2.SubscribeEventsRequest(filter=event_filter), timeout=CALL_SECONDS_MAX
        )
        self.assertEqual(next(frames).WhichOneof("frame"), "caught_up")
        self.sender.deliver("avatar_video.success", {"video_id": "v1", "url": "https://a.example/v1.mp4"})
        self.sender.deliver("avatar_video_gif.success", {"video_id": "v2"})
        body = self.sender.deliver("avatar_video.fail", {"video_id": "v3", "msg": "rendering timed out"})
        success, fail = next(frames).event, next(frames).event
        frames.cancel()
        match success.WhichOneof("payload"):
            case "avatar_video_success":
                self.assertEqual(success.avatar_video_success.url, "https://a.example/v1.mp4")
            case other:
                self.fail(f"the payload is {other}")
        self.assertEqual(success.type, event_pb2.EVENT_TYPE_AVATAR_VIDEO_SUCCESS)
        self.assertEqual(fail.WhichOneof("payload"), "avatar_video_fail")
        self.assertEqual((fail.entity_id, fail.avatar_video_fail.msg), ("v3", "rendering timed out"))
        self.assertEqual((fail.raw_body, fail.endpoint), (body, self.endpoint))
        signature = hmac.new(self.sender.secret.encode(), fail.raw_body, hashlib.sha256).hexdigest()
        self.assertEqual(fail.verification.signature, signature)

    def test_an_entity_filter_selects_one_video_of_all_types(self):
        for number, video in enumerate(("v1", "v2", "v1")):
            self.sender.deliver("avatar_video.success", {"video_id": video, "url": f"https://a.example/{number}"})
        self.sender.deliver("avatar_video_caption.success", {"video_id": "v1"})
        types = [event.type_name for event in self.kept(entity_ids=["v1"])]
        self.assertEqual(types, ["avatar_video.success"] * 2 + ["avatar_video_caption.success"])

    def test_an_unknown_type_arrives_with_its_name_and_data(self):
        self.sender.deliver("hologram.ready", {"id": "h1", "sizes": [1, 2.5], "extra": None})
        [event] = self.kept()
        self.assertEqual((event.type, event.type_name), (event_pb2.EVENT_TYPE_UNSPECIFIED, "hologram.ready"))
        self.assertEqual(event.decode_status, event_pb2.DECODE_STATUS_UNKNOWN_TYPE)
        self.assertIsNone(event.WhichOneof("payload"))
        data = json_format.MessageToDict(event.event_data)
        self.assertEqual(data, {"id": "h1", "sizes": [1, 2.5], "extra": None})

    def test_a_body_delivered_twice_is_one_event(self):
        body = self.sender.deliver("avatar_video.success", {"video_id": "v1"})
        self.assertEqual(self.sender.post(body), 200)
        [event] = self.kept()
        answer = self.stub.GetEvent(service_pb2.GetEventRequest(id=event.id), timeout=CALL_SECONDS_MAX)
        self.assertEqual(answer.event, event)

    def test_a_body_signed_with_another_secret_is_refused_and_not_stored(self):
        body = b'{"event_type":"avatar_video.success","event_data":{"video_id":"v1"}}'
        forged = hmac.new(b"whsec_another", body, hashlib.sha256).hexdigest()
        self.assertEqual(self.sender.post(body, forged), 401)
        self.assertEqual(self.kept(), [])

    def test_a_malformed_pattern_is_an_invalid_field(self):
        event_filter = filter_pb2.EventFilter(event_types=["Avatar*"])
        invalid = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "filter.event_types[0]")
        for call, request in (
            (self.stub.SubscribeEvents, service_pb2.SubscribeEventsRequest(filter=event_filter)),
            (self.stub.ListEvents, service_pb2.ListEventsRequest(filter=event_filter)),
            (self.stub.AwaitEvent, service_pb2.AwaitEventRequest(filter=event_filter)),
        ):
            self.assert_refused(call, request, *invalid)

    def test_a_cursor_that_was_edited_is_an_invalid_field(self):
        self.sender.deliver("avatar_video.success", {"video_id": "v1"})
        cursor = self.kept()[0].cursor
        edited = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
        self.assert_refused(
            self.stub.SubscribeEvents,
            service_pb2.SubscribeEventsRequest(after_cursor=edited),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            "after_cursor",
        )

    def test_a_cursor_of_another_log_is_a_failed_precondition(self):
        other = Server()
        self.addCleanup(other.close)
        with other.channel() as channel:
            stub = service_grpc.HookstreamServiceStub(channel)
            secret = create_endpoint(stub, "there")
            sender = Sender(other, "there", secret)
            sender.deliver("avatar_video.success", {"video_id": "v1"})
            sender.close()
            [event] = read_kept(stub)
        self.assert_refused(
            self.stub.SubscribeEvents,
            service_pb2.SubscribeEventsRequest(after_cursor=event.cursor),
            grpc.StatusCode.FAILED_PRECONDITION,
            "CURSOR_OF_ANOTHER_LOG",
        )

    def test_pages_neither_repeat_nor_skip_while_events_arrive(self):
        for number in range(50):
            self.sender.deliver("avatar_video.success", {"video_id": f"v{number}"})
        first = [event.entity_id for event in self.kept()]
        for order, late in ((service_pb2.ORDER_NEWEST_FIRST, False), (service_pb2.ORDER_OLDEST_FIRST, True)):
            pages, token = [], ""
            while not pages or token:
                request = service_pb2.ListEventsRequest(
                    filter=filter_pb2.EventFilter(endpoints=[self.endpoint], event_types=["avatar_video.success"]),
                    order=order,
                    page_size=7,
                    page_token=token,
                )
                answer = self.stub.ListEvents(request, timeout=CALL_SECONDS_MAX)
                pages.append([event.entity_id for event in answer.events])
                token = answer.next_page_token
                if len(pages) == 3:
                    self.sender.deliver("avatar_video.success", {"video_id": f"late-{order}"})
            listed = list(itertools.chain(*pages))
            expected = [*first, f"late-{service_pb2.ORDER_NEWEST_FIRST}", f"late-{order}"] if late else first[::-1]
            self.assertEqual(listed, expected)
            self.assertLessEqual(max(map(len, pages)), 7)

    def test_await_finds_what_came_before_the_call_and_what_comes_after(self):
        since = timestamp_pb2.Timestamp()
        since.FromNanoseconds(time.time_ns())
        self.sender.deliver("avatar_video.success", {"video_id": "other"})
        self.sender.deliver("avatar_video.success", {"video_id": "before"})

        def awaiting(video):
            event_filter = filter_pb2.EventFilter(entity_ids=[video], endpoints=[self.endpoint])
            request = service_pb2.AwaitEventRequest(filter=event_filter, since=since)
            return self.stub.AwaitEvent.future(request, timeout=CALL_SECONDS_MAX)

        self.assertEqual(awaiting("before").result().event.entity_id, "before")
        later = awaiting("after")
        self.assertFalse(later.done())
        self.sender.deliver("avatar_video.success", {"video_id": "after"})
        self.assertEqual(later.result().event.entity_id, "after")

    def test_an_await_in_vain_tells_where_to_go_on(self):
        event_filter = filter_pb2.EventFilter(endpoints=[self.endpoint])
        request = service_pb2.AwaitEventRequest(filter=event_filter)
        request.timeout.FromMilliseconds(100)
        metadata = self.assert_refused(
            self.stub.AwaitEvent, request, grpc.StatusCode.DEADLINE_EXCEEDED, "NO_EVENT_IN_TIME"
        )
        self.sender.deliver("avatar_video.success", {"video_id": "v1"})
        again = service_pb2.AwaitEventRequest(filter=event_filter, after_cursor=metadata["cursor"])
        answer = self.stub.AwaitEvent(again, timeout=CALL_SECONDS_MAX)
        self.assertEqual(answer.event.entity_id, "v1")

    def test_data_nested_as_deep_as_promised_is_readable(self):
        for levels in (22, 24):
            self.sender.deliver("avatar_video.success", {"video_id": f"v{levels}", "deep": nested(levels - 1)})
            [event] = self.kept(entity_ids=[f"v{levels}"])
            self.assertEqual(event.decode_status, event_pb2.DECODE_STATUS_COMPLETE)
            data = json_format.MessageToDict(event.event_data)
            self.assertEqual(data["deep"], nested(levels - 1))

    def test_data_nested_deeper_leaves_payload_and_body(self):
        for levels in (25, 300):
            body = self.sender.deliver("avatar_video.success", {"video_id": f"v{levels}", "deep": nested(levels - 1)})
            [event] = self.kept(entity_ids=[f"v{levels}"])
            self.assertEqual(event.decode_status, event_pb2.DECODE_STATUS_TOO_DEEP)
            self.assertFalse(event.event_data.fields)
            self.assertEqual((event.avatar_video_success.video_id, event.raw_body), (f"v{levels}", body))

    def test_the_largest_events_arrive_under_the_default_limit(self):
        text = self.sender.deliver("avatar_video.success", {"video_id": "text", "notes": "x" * (1023 * 1024)})
        numbers = self.sender.deliver("avatar_video.success", {"video_id": "numbers", "frames": [1] * 349_000})
        self.assertGreater(min(len(text), len(numbers)), 1022 * 1024)
        arrived = {event.entity_id: event for event in self.kept()}
        self.assertEqual(arrived["text"].decode_status, event_pb2.DECODE_STATUS_COMPLETE)
        self.assertEqual(arrived["text"].event_data["notes"], "x" * (1023 * 1024))
        self.assertEqual(arrived["numbers"].decode_status, event_pb2.DECODE_STATUS_TOO_LARGE)
        self.assertEqual(arrived["numbers"].raw_body, numbers)

    def test_a_page_of_large_events_stays_under_the_default_limit(self):
        for number in range(8):
            self.sender.deliver("avatar_video.success", {"video_id": str(number), "notes": "x" * (900 * 1024)})
        listed, token = [], None
        while token != "":
            request = service_pb2.ListEventsRequest(
                filter=filter_pb2.EventFilter(endpoints=[self.endpoint]), page_size=1000, page_token=token
            )
            answer = self.stub.ListEvents(request, timeout=CALL_SECONDS_MAX)
            listed.extend(event.entity_id for event in answer.events)
            token = answer.next_page_token
        self.assertEqual(listed, [str(number) for number in reversed(range(8))])

    def test_health_says_serving(self):
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in ("", SERVICE):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_SECONDS_MAX)
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)

    def test_reflection_describes_the_service(self):
        database = ProtoReflectionDescriptorDatabase(self.channel)
        self.assertIn(SERVICE, database.get_services())
        described = descriptor_pool.DescriptorPool(database).FindServiceByName(SERVICE)
        generated = service_pb2.DESCRIPTOR.services_by_name["HookstreamService"]
        self.assertEqual(sorted(described.methods_by_name), sorted(generated.methods_by_name))


class Follower(threading.Thread):
    """A backend: follows a filter from EARLIEST, and after every lost connection from its last cursor."""

    def __init__(self, stub, **event_filter):
        super().__init__(daemon=True)
        self.stub, self.filter = stub, filter_pb2.EventFilter(**event_filter)
        self.events, self.reconnects, self.failure = [], 0, None
        self.stopping, self.frames = threading.Event(), None

    def run(self):
        cursor = None
        while not self.stopping.is_set():
            request = service_pb2.SubscribeEventsRequest(filter=self.filter)
            if cursor is None:
                request.position = service_pb2.POSITION_EARLIEST
            else:
                request.after_cursor = cursor
            self.frames = self.stub.SubscribeEvents(request, wait_for_ready=True)
            try:
                for frame in self.frames:
                    kind = frame.WhichOneof("frame")
                    if kind == "event":
                        self.events.append(frame.event)
                    cursor = getattr(frame, kind).cursor
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    self.failure = error
                    return
                self.reconnects += 1

    def wait_for(self, count):
        """Waits until so many events arrived."""
        deadline = time.monotonic() + CALL_SECONDS_MAX
        while len(self.events) < count and time.monotonic() < deadline and self.failure is None:
            time.sleep(0.01)

    def stop(self):
        """Cancels the stream."""
        self.stopping.set()
        while self.is_alive():
            if self.frames is not None:
                self.frames.cancel()
            self.join(0.05)


class Load:
    """Threads that deliver one event after the other, each again and again until it is answered 200, as HeyGen does."""

    TYPES = ("avatar_video.success", "avatar_video.fail", "avatar_video_gif.success", "video_translate.success")

    def __init__(self, server, endpoint, secret, seed, threads):
        self.server, self.endpoint, self.secret = server, endpoint, secret
        self.acknowledged = [[] for _ in range(threads)]
        self.failed, self.stopping = [0] * threads, threading.Event()
        self.threads = [
            threading.Thread(target=self._run, args=(number, random.Random(f"{seed}/{number}")), daemon=True)
            for number in range(threads)
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, number, rng):
        sender = Sender(self.server, self.endpoint, self.secret)
        for count in itertools.count():
            if self.stopping.is_set():
                break
            event_type, entity = rng.choice(self.TYPES), f"entity-{rng.randrange(8)}"
            field = "video_translate_id" if event_type.startswith("video_translate") else "video_id"
            padding = "x" * rng.choice((0, 100, 4000))
            data = {field: entity, "callback_id": f"{number}/{count}", "padding": padding}
            body = json.dumps({"event_type": event_type, "event_data": data}).encode()
            while not self._is_stored(sender, body):
                self.failed[number] += 1
                time.sleep(rng.uniform(0.001, 0.02))
            self.acknowledged[number].append((event_type, entity, body))
        sender.close()

    @staticmethod
    def _is_stored(sender, body):
        try:
            return sender.post(body) == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_for(self, count):
        """Waits until so many more deliveries are acknowledged."""
        goal = self.count() + count
        deadline = time.monotonic() + CALL_SECONDS_MAX
        while self.count() < goal:
            stuck = time.monotonic() > deadline
            assert not stuck, f"deliveries are not acknowledged any more: {list(self.server.lines.queue)}"
            time.sleep(0.002)

    def count(self):
        """How many deliveries are acknowledged."""
        return sum(map(len, self.acknowledged))

    def stop(self):
        """Lets every thread bring its delivery to its end."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(CALL_SECONDS_MAX)
            assert not thread.is_alive(), "a delivery is never acknowledged"


class KillTest(unittest.TestCase):
    """The promise as a whole."""

    ROUNDS = 8
    THREADS = 4

    def test_every_acknowledged_event_is_streamed_once_and_in_order_across_kills(self):
        seed = int(os.environ.get("HOOKSTREAM_SEED", random.randrange(1 << 32)))
        print(f"HOOKSTREAM_SEED={seed}", flush=True)
        rng = random.Random(seed)
        server = Server(keep_ports=True)
        self.addCleanup(server.close)
        channel = server.channel()
        self.addCleanup(channel.close)
        stub = service_grpc.HookstreamServiceStub(channel)
        secret = create_endpoint(stub, "killed")

        filters = (
            {"event_types": ["avatar_video.*"]},
            {"entity_ids": ["entity-3"]},
            {"event_types": ["*.success"], "entity_ids": ["entity-1", "entity-2"]},
        )
        followers = [Follower(stub, **event_filter) for event_filter in filters]
        for follower in followers:
            follower.start()
            self.addCleanup(follower.stop)
        load = Load(server, "killed", secret, seed, self.THREADS)
        self.addCleanup(load.stopping.set)
        addresses, duplicates = dict(server.addresses), 0
        for _ in range(self.ROUNDS):
            for follower in followers:
                follower.wait_for(len(follower.events) + 1)
            load.wait_for(rng.randrange(50, 400))
            time.sleep(rng.uniform(0, 0.01))
            failed = sum(load.failed)
            server.kill()
            server.start()
            load.wait_for(self.THREADS)
            duplicates += server.metric('hookstream_deliveries_total{outcome="duplicate"}')
            self.assertEqual(server.addresses, addresses)
            self.assertGreater(sum(load.failed), failed, "the kill hit no delivery")
        load.wait_for(100)
        load.stop()

        acknowledged = list(itertools.chain(*load.acknowledged))
        self.assert_kept(read_kept(stub), load.acknowledged)
        for follower, event_filter in zip(followers, filters):
            kept = read_kept(stub, **event_filter)
            follower.wait_for(len(kept))
            follower.stop()
            self.assertIsNone(follower.failure)
            self.assertGreaterEqual(follower.reconnects, self.ROUNDS)
            self.assert_same(follower.events, kept)
            matching = [body for event_type, entity, body in acknowledged if wanted(event_filter, event_type, entity)]
            self.assert_same(sorted(event.raw_body for event in follower.events), sorted(matching))
        print(
            f"{len(acknowledged)} events acknowledged, {self.ROUNDS} kills, {sum(load.failed)} failed deliveries, "
            f"{int(duplicates)} stored before the answer was lost, "
            f"{[len(follower.events) for follower in followers]} streamed",
            flush=True,
        )

    def assert_kept(self, kept, acknowledged):
        """Asserts that the log holds the acknowledged deliveries: each once, those of a thread in their order."""
        sequences = [event.sequence for event in kept]
        self.assert_same(sequences, sorted(set(sequences)))
        times = [event.received_at.ToNanoseconds() for event in kept]
        self.assert_same(times, sorted(times))
        for identifier in ("id", "cursor"):
            self.assertEqual(len({getattr(event, identifier) for event in kept}), len(kept))
        for number, expected in enumerate(acknowledged):
            of_thread = [event.raw_body for event in kept if event.callback_id.startswith(f"{number}/")]
            self.assert_same(of_thread, [body for _, _, body in expected])
        self.assertEqual(len(kept), sum(map(len, acknowledged)))

    def assert_same(self, found, expected):
        """As assertEqual, but shows the first difference only: a diff of long lists takes minutes."""
        for at, (one, other) in enumerate(zip(found, expected)):
            self.assertTrue(one == other, f"they differ from place {at} on:\n{one}\n{other}")
        self.assertEqual(len(found), len(expected))

    def test_a_drain_tells_streams_where_to_go_on(self):
        server = Server(keep_ports=True)
        self.addCleanup(server.close)
        with server.channel() as channel:
            stub = service_grpc.HookstreamServiceStub(channel)
            sender = Sender(server, "drained", create_endpoint(stub, "drained"))
            self.addCleanup(sender.close)
            frames = stub.SubscribeEvents(service_pb2.SubscribeEventsRequest(), timeout=CALL_SECONDS_MAX)
            self.assertEqual(next(frames).WhichOneof("frame"), "caught_up")
            sender.deliver("avatar_video.success", {"video_id": "before"})
            self.assertEqual(next(frames).event.entity_id, "before")
            server.process.send_signal(signal.SIGTERM)
            last = next(frames)
            self.assertEqual(last.WhichOneof("frame"), "draining")
            with self.assertRaises(grpc.RpcError) as ended:
                next(frames)
            self.assertEqual(ended.exception.code(), grpc.StatusCode.UNAVAILABLE)
            details = details_of(ended.exception)
            self.assertEqual(details[error_details_pb2.ErrorInfo].reason, "DRAINING")
            self.assertIn(error_details_pb2.RetryInfo, details)
            self.assertEqual(server.process.wait(CALL_SECONDS_MAX), 0)
            server.start()
            sender.close()
            sender.deliver("avatar_video.success", {"video_id": "after"})
            request = service_pb2.AwaitEventRequest(after_cursor=last.draining.cursor)
            answer = stub.AwaitEvent(request, timeout=CALL_SECONDS_MAX, wait_for_ready=True)
            self.assertEqual(answer.event.entity_id, "after")


def wanted(event_filter, event_type, entity):
    """The rule of `EventFilter`, for the filters of the kill test."""

    def matches(pattern):
        return event_type.startswith(pattern[:-1]) if pattern.endswith(".*") else event_type.endswith(pattern[1:])

    types, entities = event_filter.get("event_types", []), event_filter.get("entity_ids", [])
    return (not types or any(map(matches, types))) and (not entities or entity in entities)


if __name__ == "__main__":
    if not BINARY.exists():
        sys.exit(f"{BINARY} does not exist: run `cargo build --release`, or set HOOKSTREAM_BINARY")
    unittest.main(verbosity=2)
