"""A soak: the service under a steady load of everything it does, for a minute or for hours. Owns the phases of a run
and its verdict.

First the service is filled, so that what it keeps in memory is at its bounds: as many events as it keeps, read by a
stream, because it keeps what it encoded. Then all clients start, and samples are taken for the duration; then all
clients leave, and it has to be as it was before they came. What has to hold meanwhile is said where it is checked. If
anything did not, the run ends with status 1.
"""

import argparse
import asyncio
import contextlib
import functools
import os
import pathlib
import random
import re
import signal
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "clients/python"))

from api import Client, Interrupted
from changes import Changes
from claims import Claims
from client_test import service_pb2
from load import ARRIVAL_SECONDS_MAX, EVENT_BYTES, UNKNOWN_TYPE, Ledger, Sender
from measure import FLAT, Measurements
from report import draw, summarize
from service import Service
from visitors import VANISHED_SECONDS_MAX, Visitors
from witness import Witness
from workers import subscribe_and_work

UNITS_SECONDS = {"s": 1, "m": 60, "h": 3600}
DURATION_SECONDS_MIN = 60
SENDERS = 4
# As many events as the service keeps in memory.
FILL_EVENTS = 16 * 1024
# Retention looks once a minute. When it does, more is kept than the size allows, and what the size allows is more than
# the age does: both rules remove events each time.
RETENTION_AGE_SECONDS, RETENTION_SIZE_SECONDS, RETENTION_INTERVAL_SECONDS = 90, 110, 60
VISITORS, SUBSCRIPTIONS = 4, 2
RESTART_SECONDS_MIN, RESTART_SECONDS_MAX = 10, 40
LEAVE_SECONDS_MAX, SETTLE_SECONDS_MAX = 180, VANISHED_SECONDS_MAX + 20


class Run:
    """What the parts of a run share."""

    def __init__(self, arguments):
        self.seed, self.rate, self.restarts = arguments.seed, arguments.rate, arguments.restarts
        self.duration_seconds = arguments.duration
        self.random = random.Random(self.seed)
        self.claims = Claims()
        retention_bytes = int(self.rate * RETENTION_SIZE_SECONDS * EVENT_BYTES)
        self.service = Service(self.claims, arguments.output, RETENTION_AGE_SECONDS, retention_bytes)
        self.retention_bytes = retention_bytes
        self.ledger = Ledger(self.claims)
        self.witness = Witness(self)
        self.measurements = Measurements(self.service, arguments.output)
        self.types, self.senders = [UNKNOWN_TYPE], []
        self.ending = asyncio.Event()
        self.ends_at = float("inf")

    def seconds_left(self):
        """How long the clients stay."""
        return max(self.ends_at - time.monotonic(), 0)

    def until_the_end(self, seconds):
        """A timeout, which comes early where the run ends before."""
        return asyncio.timeout(min(seconds, self.seconds_left()))

    async def pause(self, seconds):
        """Waits, at the longest until the run ends."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self.ending.wait()
        except TimeoutError:
            pass

    async def repeat(self, name, activity, pause_seconds):
        """Does something again and again, with pauses of this length on average, until the run ends."""
        while not self.ending.is_set():
            await self.pause(self.random.uniform(0, 2 * pause_seconds))
            if not self.ending.is_set():
                await self.attempt(name, activity)

    async def attempt(self, name, activity):
        """Does something once; what goes wrong is a failed claim, unless a restart explains it."""
        try:
            await activity()
        except* Interrupted:
            self.claims.count("interruptions")
        except* Exception as group:
            self.claims.fail(f"{name} goes as it has to", "".join(traceback.format_exception(group)))


def operator(run):
    """A connection of the operator's."""
    return Client(run.service.addresses["grpc"], run.service.token, run.restarts)


async def fill(run):
    """Makes the endpoints and delivers as fast as possible, until what the service keeps in memory is at its bounds."""
    async with operator(run) as client:
        answer = await client.call(client.hooks.ListEventTypes, service_pb2.ListEventTypesRequest())
        run.types += [event_type.name for event_type in answer.event_types]
        for number in range(SENDERS):
            create = service_pb2.ManageEndpointRequest.Create(name=f"steady-{number}")
            request = service_pb2.ManageEndpointRequest(create=create)
            answer = await client.call(client.hooks.ManageEndpoint, request)
            run.senders.append(Sender(run, create.name, create.name, answer.create.secret))

    async def deliver(sender):
        for _ in range(FILL_EVENTS // SENDERS):
            await sender.deliver()
        sender.connection.close()

    async with asyncio.TaskGroup() as tasks:
        for sender in run.senders:
            tasks.create_task(deliver(sender))


async def restart_now_and_then(run):
    """Kills or drains the service and starts it again."""
    while not run.ending.is_set():
        await run.pause(run.random.uniform(RESTART_SECONDS_MIN, RESTART_SECONDS_MAX))
        if not run.ending.is_set():
            await run.service.restart(run.random.choice((signal.SIGKILL, signal.SIGTERM)))
            run.claims.count("restarts")


async def watch_arrivals(run):
    """Claims that what was answered arrives soon."""
    while not run.ending.is_set():
        await run.pause(ARRIVAL_SECONDS_MAX / 2)
        overdue = run.ledger.overdue()
        run.claims.check(overdue is None, "what is answered arrives soon", overdue)


async def soak(run):
    """Lets all clients do what they do for the duration, and then lets them leave."""
    async with operator(run) as client:
        changes, visitors = Changes(run, client), Visitors(run)
        activities = {
            "an endpoint that comes and goes": (changes.endpoint_comes_and_goes, 5),
            "a secret that is rotated": (changes.rotate_steady_endpoint, 20),
            "a token that comes and goes": (changes.token_comes_and_goes, 5),
            "a certificate that is replaced": (changes.reload_certificate, 15),
            "a call that reads": (changes.read, 1),
            "a client that vanishes": (visitors.vanish, 1),
        }
        for number in range(VISITORS):
            activities[f"visitor {number}"] = visitors.visit, 1
        for number in range(SUBSCRIPTIONS):
            name = f"work-{number}"
            activities[f"subscription {name}"] = functools.partial(subscribe_and_work, run, name, client), 1
        run.ends_at = time.monotonic() + run.duration_seconds
        clients = [run.repeat(name, activity, pause) for name, (activity, pause) in activities.items()]
        for sender in run.senders:
            deliver = functools.partial(sender.deliver_steadily, run.rate / SENDERS)
            clients.append(run.attempt(f"the sender {sender.name}", deliver))
        clients.append(run.attempt("the watch over arrivals", functools.partial(watch_arrivals, run)))
        if run.restarts:
            clients.append(run.attempt("a restart", functools.partial(restart_now_and_then, run)))
        tasks = [asyncio.create_task(client) for client in clients]
        await run.measurements.sample_steadily(run.duration_seconds)
        run.ending.set()
        _, staying = await asyncio.wait(tasks, timeout=LEAVE_SECONDS_MAX)
        for task in staying:
            run.claims.fail("every client comes to an end", task.get_coro())
            task.cancel()


async def happens_within(seconds, condition):
    """Waits until something holds; says whether it does in time."""
    ends_at = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < ends_at:
        await asyncio.sleep(1)
    return holds


async def check_retention(run):
    """Claims that both rules of retention were applied: what is kept is neither too large nor too old."""
    sample = await run.measurements.take()
    run.claims.check(sample.trimmed_events > 0, "retention removes events")
    run.claims.check(
        sample.log_bytes <= run.retention_bytes, "retention keeps the log's size", f"{sample.log_bytes:.0f} bytes"
    )
    request = service_pb2.ListEventsRequest(order=service_pb2.ORDER_OLDEST_FIRST, page_size=1)
    async with operator(run) as client:
        answer = await client.call(client.hooks.ListEvents, request)
    for event in answer.events:
        age_seconds = time.time() - event.received_at.ToMilliseconds() / 1000
        age_seconds_max = RETENTION_AGE_SECONDS + 1.5 * RETENTION_INTERVAL_SECONDS
        run.claims.check(age_seconds < age_seconds_max, "retention keeps no old events", f"{age_seconds:.0f} s old")


async def check_counters(run):
    """Claims that the service counted what was delivered; a process that was restarted has counted only since."""
    series = await run.service.metrics()
    expected = {"stored": run.ledger.accepted, "duplicate": run.claims.counts["duplicates"]}
    expected["unverified"] = run.claims.counts["forgeries"]
    for outcome, number in expected.items():
        counted = series.get(f'hookstream_deliveries_total{{outcome="{outcome}"}}', 0)
        what = f"{outcome}: {counted:.0f} of {number}"
        run.claims.check(counted == number, "deliveries are counted by their outcome", what)


async def without_clients(run):
    """Waits until no client is connected any more; returns how the service is then, or at the end of its patience."""
    ends_at = time.monotonic() + SETTLE_SECONDS_MAX
    while True:
        sample = await run.measurements.take()
        if sample.connected() == (0, 0, 0) or time.monotonic() > ends_at:
            return sample
        await asyncio.sleep(1)


async def check_left(run, beginning):
    """Claims that nothing of the clients is left."""
    sample = await without_clients(run)
    run.claims.check(sample.connected() == (0, 0, 0), "no streams and connections are left", sample)
    run.claims.check(
        sample.descriptors <= beginning.descriptors,
        "no descriptors are left",
        f"{sample.descriptors} after {beginning.descriptors}",
    )


@contextlib.asynccontextmanager
async def witnessed(run):
    """Has the witness watch what happens meanwhile, and claims at the end that all of it arrived."""
    following = asyncio.create_task(run.attempt("the witness", run.witness.follow))
    try:
        yield
        if not await happens_within(ARRIVAL_SECONDS_MAX, run.ledger.settled):
            run.claims.fail("what is answered arrives, and nothing else", f"{list(run.ledger.answered)[:5]}")
    finally:
        following.cancel()
        await asyncio.wait([following])


async def perform(run):
    """All phases; the service is ended however they end."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    try:
        await run.service.start()
        print(f"filling; seed {run.seed}", flush=True)
        async with witnessed(run):
            await fill(run)
        beginning = await without_clients(run)
        print(f"soaking for {run.duration_seconds} s; process {run.service.process.pid}", flush=True)
        async with witnessed(run):
            await soak(run)
            print("settling", flush=True)
        await check_left(run, beginning)
        await check_retention(run)
        if not run.restarts:
            await check_counters(run)
    finally:
        await run.service.close()


def report(run, arguments):
    """Judges what must not grow, and writes what the run was like."""
    # Of a service that is restarted, only the disk is the same before and after.
    columns = {"disk_bytes"} if run.restarts else {flat.column for flat in FLAT}
    growths = [growth for growth in run.measurements.growths() if growth.flat.column in columns]
    for growth in growths:
        change = f"{growth.before:.0f} to {growth.after:.0f}"
        run.claims.check(growth.within(), f"{growth.flat.name} does not grow", change)
    summary = summarize(run, growths)
    (arguments.output / "soak.svg").write_text(draw(run.measurements.samples))
    (arguments.output / "summary.md").write_text(summary)
    print(summary)
    print(", ".join(f"{what}: {number}" for what, number in sorted(run.claims.counts.items())))


def duration(text):
    """Seconds of a duration such as 90s, 100m or 3h."""
    found = re.fullmatch(r"([0-9]+)([smh])", text)
    seconds = int(found[1]) * UNITS_SECONDS[found[2]] if found else 0
    if seconds < DURATION_SECONDS_MIN:
        wanted = f"a duration of at least {DURATION_SECONDS_MIN} s, such as 90s, 100m or 3h"
        raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
    return seconds


def main():
    """Reads the arguments and runs."""
    target = pathlib.Path(os.environ["HOOKSTREAM_TARGET"])
    parser = argparse.ArgumentParser(prog="tests/soak/run", description=__doc__)
    parser.add_argument("--duration", type=duration, default="60s", help="how long clients stay: 60s, 100m, 3h")
    parser.add_argument("--rate", type=float, default=50, help="deliveries a second")
    parser.add_argument("--output", type=pathlib.Path, default=target / "soak", help="where the results are written")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="repeats what is left to chance")
    parser.add_argument("--restarts", action="store_true", help="kill or restart the service now and then")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    run = Run(arguments)
    asyncio.run(perform(run))
    report(run, arguments)
    sys.exit(1 if run.claims.failures else 0)


if __name__ == "__main__":
    main()
