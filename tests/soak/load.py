"""Deliveries, as HeyGen would send them. Owns what they hold, who sends them, and the account of which must arrive."""

import asyncio
import hashlib
import hmac
import json
import re
import time
import zlib

from api import Unexpected
from http_connection import HttpConnection

# Every field that names the resource of some event type, so that one body does for all types.
ENTITY_FIELDS = ("video_id", "video_translate_id", "session_id", "avatar_id", "proofread_id", "render_id", "project_id")
ENTITY_FIELDS += ("batch_id", "id")
# HeyGen adds types without notice.
UNKNOWN_TYPE = "hologram.success"
EVENTS_OF_AN_ENTITY = 3
BIG_BODIES_SHARE, DUPLICATES_SHARE, FORGERIES_SHARE = 0.003, 0.03, 0.02
BIG_BODY_BYTES_MIN, BIG_BODY_BYTES_MAX = 50_000, 300_000
# What an event takes in the log, big bodies included: retention by size is set by it.
EVENT_BYTES = 1_200
# Says of a body which delivery it is; first in the body, so that nobody has to read all of it.
KEY = re.compile(rb'\{"soak": "([a-z0-9-]+)/([0-9]+)"')
FORGER = "forger"
RETRY_SECONDS = 0.1
# A delivery that was answered is on disk and in memory; a stream has it at once, but this machine may be busy.
ARRIVAL_SECONDS_MAX = 60


def signature(secret, body):
    """What HeyGen would put into the header `Signature`."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Ledger:
    """Which deliveries were answered, and which of them arrived: each once, and those of a sender in their order."""

    def __init__(self, claims):
        self.claims = claims
        # Checksum and time of the deliveries that did not arrive yet, or whose answer has not come yet.
        self.answered, self.arrived = {}, {}
        self.last_serials = {}
        self.accepted = 0

    def accept(self, key, checksum):
        """A delivery was answered as stored."""
        self.accepted += 1
        self._match(key, checksum, self.arrived, self.answered)

    def arrive(self, body):
        """An event came to the stream that sees all."""
        found = KEY.match(body)
        if not self.claims.check(found, "nothing arrives that was not delivered", body[:80]):
            return
        sender, serial = found[1].decode(), int(found[2])
        expected = self.last_serials.get(sender, 0) + 1
        where = f"{sender}/{serial} where {sender}/{expected} was to come"
        self.claims.check(serial == expected, "each delivery arrives once, in order", where)
        self.last_serials[sender] = serial
        self._match(f"{sender}/{serial}", zlib.crc32(body), self.answered, self.arrived)

    def _match(self, key, checksum, others, own):
        found = others.pop(key, None)
        if found is None:
            own[key] = checksum, time.monotonic()
        else:
            self.claims.check(found[0] == checksum, "a body arrives as it was delivered", key)

    def overdue(self):
        """A delivery that was answered and takes too long to arrive, if there is one."""
        key, (_, since) = next(iter(self.answered.items()), (None, (None, 0)))
        return key if key is not None and time.monotonic() - since > ARRIVAL_SECONDS_MAX else None

    def settled(self):
        """Whether all that was answered has arrived, and nothing else."""
        return not self.answered and not self.arrived


class Sender:
    """Delivers one event after another to an endpoint, each until it is answered."""

    def __init__(self, run, name, endpoint, secret):
        self.run, self.name, self.endpoint, self.secret = run, name, endpoint, secret
        self.connection = HttpConnection(run.service.addresses["ingress"])
        self.serial = 0

    def body(self):
        """The next body and its key."""
        self.serial += 1
        key = f"{self.name}/{self.serial}"
        entity = f"{self.name}-{self.serial // EVENTS_OF_AN_ENTITY}"
        data = dict.fromkeys(ENTITY_FIELDS, entity)
        data |= {"callback_id": key, "url": f"https://files.heygen.ai/video/{self.serial}?Signature=sample"}
        if self.run.random.random() < BIG_BODIES_SHARE:
            data["gif_html"] = "x" * self.run.random.randint(BIG_BODY_BYTES_MIN, BIG_BODY_BYTES_MAX)
        envelope = {"soak": key, "event_type": self.run.random.choice(self.run.types), "event_data": data}
        # A repeated delivery is known by its id if it has one, else by its body.
        if self.serial % 2:
            envelope["event_id"] = key
        return key, json.dumps(envelope).encode()

    async def deliver(self):
        """Delivers the next event, and some of them twice."""
        key, body = self.body()
        await self.post(body, 200)
        self.run.ledger.accept(key, zlib.crc32(body))
        if self.run.random.random() < DUPLICATES_SHARE:
            await self.post(body, 200)
            self.run.claims.count("duplicates")

    async def deliver_callback(self, path):
        """Delivers the next event unsigned, to a URL that is a secret."""
        key, body = self.body()
        await self.post(body, 200, path)
        self.run.ledger.accept(key, zlib.crc32(body))

    async def forge(self):
        """Delivers what this endpoint's secret did not sign."""
        body = json.dumps({"soak": f"{FORGER}/1", "event_type": UNKNOWN_TYPE, "at": time.monotonic()}).encode()
        await self.post(body, 401, secret="whsec_of_somebody_else")
        self.run.claims.count("forgeries")

    async def post(self, body, expected, path=None, secret=None):
        """Posts a body until it is answered, and asserts how."""
        headers = {"Content-Type": "application/json"}
        if path is None:
            path = f"/webhooks/{self.endpoint}"
            headers["Signature"] = signature(secret or self.secret, body)
        while True:
            try:
                status, text = await self.connection.request("POST", path, headers, body)
            except (OSError, asyncio.IncompleteReadError):
                if not self.run.restarts:
                    raise
            else:
                if status == expected:
                    return
                if not (self.run.restarts and status == 503):
                    raise Unexpected(f"a delivery is answered with {status} {text.decode()}, expected {expected}")
            # As HeyGen does: what was not answered with 2xx comes again.
            await asyncio.sleep(RETRY_SECONDS)

    async def deliver_steadily(self, rate):
        """Delivers so many events a second, at random moments, until the run ends."""
        due = time.monotonic()
        while not self.run.ending.is_set():
            due = max(due + self.run.random.expovariate(rate), time.monotonic() - 1)
            await self.run.pause(due - time.monotonic())
            if self.run.random.random() < FORGERIES_SHARE:
                await self.forge()
            await self.deliver()
        self.connection.close()
