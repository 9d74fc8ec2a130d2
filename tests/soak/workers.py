"""Subscriptions that are made, worked off by several consumers, and deleted. Owns the account of every event: handed
out until it is settled, never after, and none forgotten."""

import asyncio
import collections
import time

import grpc

from api import Client, Interrupted
from client_test import filter_pb2, service_pb2
from hookstream.v1 import subscription_pb2
from witness import matches

ACK_DEADLINE_SECONDS = 10
MIN_RETRY_DELAY_SECONDS, MAX_RETRY_DELAY_SECONDS = 0.2, 1
WORK_SECONDS_MIN, WORK_SECONDS_MAX = 15, 60
# More often than retention removes events, and dead letters with them.
AUDIT_SECONDS = 8
FLUSH_SECONDS = 0.2
# Every event has this long to be settled once nobody fails any more: deadlines and delays of all attempts, for the
# events of an entity one after the other.
SETTLE_SECONDS_MAX = 60
CONSUMERS_MIN, CONSUMERS_MAX = 2, 4
# What a consumer does with an event, and how often.
CONDUCT = {"done": 90, "retry": 4, "reject": 2, "extend": 2, "ignore": 1, "vanish": 1}
PAGE_EVENTS = 1000
RETRY_SECONDS = 0.2


class Account:
    """What has to become of each event of one subscription."""

    def __init__(self, claims, event_filter, start_sequence, max_attempts, per_entity):
        self.claims = claims
        self.event_filter = event_filter
        self.start_sequence = start_sequence
        self.max_attempts = max_attempts
        self.per_entity = per_entity
        # By id: to be settled, put aside, and settled.
        self.open, self.dead, self.settled = set(), set(), set()
        # The event of each entity that is under way.
        self.under_way = {}
        # Events that must have been put aside, because the next one of their entity came: what came, by their id.
        self.passed = {}

    def expect(self, event):
        """The witness saw an event."""
        known = event.id in self.settled or event.id in self.dead
        if not known and event.sequence > self.start_sequence and matches(self.event_filter, event):
            self.open.add(event.id)

    def hand_out(self, event, attempt):
        """A consumer was given an event."""
        what = f"{event.id} at {event.sequence}, attempt {attempt}"
        self.claims.check(event.id not in self.settled, "what is settled is not handed out again", what)
        self.claims.check(event.id not in self.dead, "what is put aside is not handed out", what)
        self.claims.check(event.sequence > self.start_sequence, "a subscription starts where it was told to", what)
        self.claims.check(matches(self.event_filter, event), "a subscription follows its filter", what)
        self.claims.check(1 <= attempt <= self.max_attempts, "an event has no more attempts than allowed", what)
        if self.per_entity and event.entity_id:
            other = self.under_way.get(event.entity_id, event.id)
            if other != event.id:
                # Its last attempt may have gone to a consumer that vanished before it read it.
                self.passed[other] = what
            # After its last attempt the next one of the entity may come at any moment.
            if attempt < self.max_attempts:
                self.under_way[event.entity_id] = event.id
            else:
                self.under_way.pop(event.entity_id, None)

    def release(self, event):
        """A consumer is about to settle an event."""
        if self.under_way.get(event.entity_id) == event.id:
            del self.under_way[event.entity_id]

    def settle(self, ids):
        """Acknowledged, or forgotten."""
        self.open.difference_update(ids)
        self.dead.difference_update(ids)
        self.settled.update(ids)

    def put_aside(self, ids):
        """Became dead letters."""
        self.open.difference_update(ids)
        self.dead.update(ids)

    def reopen(self, ids):
        """Are to be handed out again."""
        self.dead.difference_update(ids)
        self.open.update(ids)


class Work:
    """One subscription, from its creation to its end."""

    def __init__(self, run, name, client):
        self.run, self.name, self.client = run, name, client
        random = run.random
        sender = random.choice(run.senders)
        filters = [{"endpoints": [sender.endpoint]}, {"event_types": ["*.fail"], "endpoints": [sender.endpoint]}]
        filters += [{"event_types": ["avatar_video.*", "video_translate.*"]}, {"event_types": ["*.fail"]}]
        self.start = run.witness.seen[-1]
        per_entity = random.random() < 0.5
        self.account = Account(
            run.claims, random.choice(filters), self.start.sequence, random.randint(2, 4), per_entity
        )
        # From some moment on every event is done at once, so that an end comes.
        self.failing = True
        self.deleting = False
        # Ids and events to say the same of.
        self.outcomes = collections.defaultdict(list)

    async def manage(self, *expected, **operation):
        """One operation on subscriptions."""
        request = service_pb2.ManageSubscriptionRequest(**operation)
        return await self.client.call(self.client.hooks.ManageSubscription, request, *expected)

    async def live(self):
        """Makes the subscription, has it worked off, settles what is left and deletes it."""
        operations = service_pb2.ManageSubscriptionRequest
        # One that an interrupted life left.
        await self.manage("SUBSCRIPTION_NOT_FOUND", delete=operations.Delete(name=self.name))
        self.run.witness.listeners.add(self.account.expect)
        try:
            await self.create()
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self.run.random.randint(CONSUMERS_MIN, CONSUMERS_MAX)):
                    tasks.create_task(self.consume())
                tasks.create_task(self.acknowledge_steadily())
                await self.audit_until(time.monotonic() + self.run.random.uniform(WORK_SECONDS_MIN, WORK_SECONDS_MAX))
                self.failing = False
                self.run.witness.listeners.discard(self.account.expect)
                await self.settle()
                self.deleting = True
                await self.manage(delete=operations.Delete(name=self.name))
        finally:
            self.run.witness.listeners.discard(self.account.expect)
        await self.client.refused(
            self.client.hooks.ManageSubscription,
            operations(get=operations.Get(name=self.name)),
            "SUBSCRIPTION_NOT_FOUND",
        )
        self.run.claims.count("subscriptions")
        self.run.claims.count("events settled", len(self.account.settled))

    async def create(self):
        """Makes the subscription, from where the witness was."""
        ordering = subscription_pb2.ORDERING_PER_ENTITY if self.account.per_entity else subscription_pb2.ORDERING_NONE
        subscription = subscription_pb2.Subscription(
            name=self.name,
            filter=filter_pb2.EventFilter(**self.account.event_filter),
            max_attempts=self.account.max_attempts,
            ordering=ordering,
        )
        subscription.ack_deadline.FromSeconds(ACK_DEADLINE_SECONDS)
        subscription.min_retry_delay.FromMilliseconds(int(MIN_RETRY_DELAY_SECONDS * 1000))
        subscription.max_retry_delay.FromMilliseconds(int(MAX_RETRY_DELAY_SECONDS * 1000))
        create = service_pb2.ManageSubscriptionRequest.Create(subscription=subscription, after_cursor=self.start.cursor)
        await self.manage(create=create)
        # What came since is part of it, too.
        for event in self.run.witness.seen:
            self.account.expect(event)

    async def consume(self):
        """A consumer, which comes back until the subscription is gone."""
        while not self.deleting:
            service = self.run.service
            async with Client(service.addresses["grpc"], service.token, self.run.restarts) as client:
                frames = client.subscribe(service_pb2.SubscribeEventsRequest(subscription=self.name))
                try:
                    async for frame in frames:
                        if frame.WhichOneof("frame") == "event" and self.handle(frame) == "vanish":
                            break
                except grpc.aio.AioRpcError as error:
                    try:
                        reason = client.judge(error, "SUBSCRIPTION_NOT_FOUND")
                    except Interrupted:
                        await asyncio.sleep(RETRY_SECONDS)
                        continue
                    self.run.claims.check(self.deleting, "a subscription goes on until it is deleted", reason)
                    return
                finally:
                    frames.cancel()

    def handle(self, frame):
        """Decides what becomes of an event, and says what."""
        event, attempt = frame.event, frame.delivery_attempt
        self.account.hand_out(event, attempt)
        conduct = "done"
        if self.failing:
            [conduct] = self.run.random.choices(list(CONDUCT), CONDUCT.values())
        if conduct not in ("ignore", "vanish"):
            self.outcomes[conduct].append((frame.ack_id, event))
        self.run.claims.count("attempts")
        return conduct

    async def acknowledge_steadily(self):
        """Tells the service what became of events, many at a time."""
        while not self.deleting:
            await asyncio.sleep(FLUSH_SECONDS)
            for outcome, handled in list(self.outcomes.items()):
                self.outcomes[outcome] = []
                if handled:
                    await self.acknowledge(outcome, handled)

    async def acknowledge(self, outcome, handled):
        """Tells it of some events, which have the same outcome."""
        request = service_pb2.AcknowledgeEventsRequest(
            subscription=self.name, ack_ids=[ack_id for ack_id, _ in handled]
        )
        getattr(request, outcome).SetInParent()
        if outcome in ("done", "reject"):
            for _, event in handled:
                self.account.release(event)
        try:
            answer = await self.client.call(self.client.hooks.AcknowledgeEvents, request, "SUBSCRIPTION_NOT_FOUND")
        except Interrupted:
            # Whether it counted is not known; what counted does not come again.
            self.account.open.difference_update(event.id for _, event in handled)
            return
        if answer is None:
            self.run.claims.check(self.deleting, "a subscription is there until it is deleted", self.name)
            return
        for (_, event), result in zip(handled, answer.results, strict=True):
            match result:
                case service_pb2.ACKNOWLEDGEMENT_RESULT_ACCEPTED if outcome == "done":
                    self.account.settle([event.id])
                case service_pb2.ACKNOWLEDGEMENT_RESULT_ACCEPTED if outcome == "reject":
                    self.account.put_aside([event.id])
                case service_pb2.ACKNOWLEDGEMENT_RESULT_LATE:
                    self.run.claims.count("late acknowledgements")
                case service_pb2.ACKNOWLEDGEMENT_RESULT_UNKNOWN:
                    self.run.claims.fail("an ack id that was given is known", event.id)
        if outcome == "extend":
            self.outcomes["done"] += handled

    async def audit_until(self, ends_at):
        """Looks at what is put aside now and then, and hands it out again or forgets it."""
        while time.monotonic() < ends_at and not self.run.ending.is_set():
            await self.run.pause(min(AUDIT_SECONDS, ends_at - time.monotonic()))
            await self.audit()

    async def audit(self):
        """Compares the dead letters with the account, and empties them."""
        operations = service_pb2.ManageSubscriptionRequest
        before, passed = set(self.account.dead), self.account.passed
        self.account.passed = {}
        request = service_pb2.ListEventsRequest(dead_letters_of=self.name, page_size=PAGE_EVENTS)
        answer = await self.client.call(self.client.hooks.ListEvents, request)
        ids = [letter.event_id for letter in answer.dead_letters]
        if not answer.next_page_token:
            self.run.claims.check(before <= set(ids), "a dead letter is kept", before.difference(ids))
            for other, what in passed.items():
                claim = "of an entity one event is under way"
                self.run.claims.check(other in ids, claim, f"{what} beside {other}")
        self.account.put_aside(ids)
        if not ids:
            return
        self.run.claims.count("dead letters", len(ids))
        if self.failing and self.run.random.random() < 0.3:
            discard = operations.DiscardDeadLetters(name=self.name, event_ids=ids)
            answer = await self.manage(discard_dead_letters=discard)
            self.run.claims.check(answer.discard_dead_letters.discarded == len(ids), "dead letters can be discarded")
            self.account.settle(ids)
        else:
            self.account.reopen(ids)
            replay = operations.ReplayDeadLetters(name=self.name, event_ids=ids)
            answer = await self.manage(replay_dead_letters=replay)
            self.run.claims.check(answer.replay_dead_letters.replayed == len(ids), "dead letters can be replayed")

    async def settle(self):
        """Waits until nothing is left of what came so far, and claims that nothing is."""
        ends_at = time.monotonic() + SETTLE_SECONDS_MAX
        while (self.account.open or self.account.dead) and time.monotonic() < ends_at:
            await asyncio.sleep(1)
            await self.audit()
        lost = self.account.open | self.account.dead
        self.run.claims.check(not lost, "every event of a subscription is settled", f"{self.name}: {sorted(lost)[:5]}")
        answer = await self.manage(get=service_pb2.ManageSubscriptionRequest.Get(name=self.name))
        status = answer.get.subscription.status
        self.run.claims.check(not status.HasField("last_gap_at"), "retention overtakes no subscription", self.name)


async def subscribe_and_work(run, name, client):
    """One life of a subscription."""
    await Work(run, name, client).live()
