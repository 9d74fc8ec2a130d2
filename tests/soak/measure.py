"""How the service does over time. Owns the samples, their file, and the judgement whether something grows.

The rule: of all samples the first quarter is warm-up. The median of the second quarter is compared with the median of
the last. Medians pass over what is there for a moment, such as a stream that reads from the beginning; what grows for
as long as the service runs lifts the last above the second. How much it may be above is said for each series: a share,
or where that is less, an amount that is noise in so small a figure.

Caches and what the allocator keeps take forty minutes until they are full: a run that gives them no such time is allowed
more, and finds coarse growth alone.
"""

import asyncio
import collections
import csv
import gc
import itertools
import os
import statistics
import time
from typing import NamedTuple

SAMPLES = 400
INTERVAL_SECONDS_MIN = 2
MIB = 1024 * 1024


class Sample(NamedTuple):
    """What is known of one moment; the names are the columns of the file."""

    seconds: float
    resident_bytes: float
    anonymous_bytes: float
    descriptors: float
    threads: float
    disk_bytes: float
    service_cpu_seconds: float
    clients_cpu_seconds: float
    streams: float
    ingress_connections: float
    grpc_connections: float
    subscription_backlog: float
    subscription_in_flight: float
    dead_letters: float
    log_bytes: float
    log_wal_bytes: float
    index_lag_events: float
    trimmed_events: float
    stored_events: float
    metric_series: float

    def connected(self):
        """What clients keep open."""
        return self.streams, self.ingress_connections, self.grpc_connections


class Flat(NamedTuple):
    """A series that must not grow, and by how much it may seem to."""

    column: str
    name: str
    share: float
    amount: float


FLAT = (
    Flat("anonymous_bytes", "memory (RssAnon)", 0.05, 4 * MIB),
    Flat("resident_bytes", "memory (VmRSS)", 0.05, 6 * MIB),
    Flat("descriptors", "file descriptors", 0.1, 4),
    Flat("threads", "threads", 0.1, 4),
    Flat("disk_bytes", "disk", 0.1, 8 * MIB),
    Flat("metric_series", "series of /metrics", 0.05, 10),
)


# In a shorter run than this, so many times as much may seem to grow.
LONG_SECONDS_MIN = 3 * 3600
COARSE = 5


class Growth(NamedTuple):
    """What became of a series that must not grow."""

    flat: Flat
    before: float
    after: float
    is_coarse: bool

    def within(self):
        """Whether it is as flat as it has to be."""
        margin = max(self.flat.share * self.before, self.flat.amount)
        return self.after - self.before <= margin * (COARSE if self.is_coarse else 1)


class Measurements:
    """The samples of a run."""

    def __init__(self, service, output):
        self.service = service
        self.file = open(output / "samples.csv", "w", newline="")
        self.rows = csv.writer(self.file)
        self.rows.writerow(Sample._fields)
        self.samples = []
        self.started = time.monotonic()

    async def take(self):
        """Looks at the service once, without keeping what it sees."""
        # A channel that was closed has its connection until it is collected, and would count as a client that is there.
        gc.collect()
        series = await self.service.metrics()
        totals = collections.Counter()
        for name, value in series.items():
            totals[name.partition("{")[0].removeprefix("hookstream_")] += value
        resident_bytes, anonymous_bytes = self.service.memory_bytes()
        return Sample(
            seconds=round(time.monotonic() - self.started, 1),
            resident_bytes=resident_bytes,
            anonymous_bytes=anonymous_bytes,
            descriptors=self.service.descriptors(),
            threads=self.service.threads(),
            disk_bytes=self.service.disk_bytes(),
            service_cpu_seconds=self.service.cpu_seconds(),
            clients_cpu_seconds=round(sum(os.times()[:2]), 2),
            streams=totals["streams"],
            ingress_connections=series.get('hookstream_connections{listener="ingress"}', 0),
            grpc_connections=series.get('hookstream_connections{listener="grpc"}', 0),
            subscription_backlog=totals["subscription_backlog"],
            subscription_in_flight=totals["subscription_in_flight"],
            dead_letters=totals["subscription_dead_letters"],
            log_bytes=totals["log_size_bytes"],
            log_wal_bytes=totals["log_wal_bytes"],
            index_lag_events=totals["log_index_lag_events"],
            trimmed_events=totals["log_trimmed_events_total"],
            stored_events=series.get('hookstream_deliveries_total{outcome="stored"}', 0),
            metric_series=len(series),
        )

    async def sample_steadily(self, duration_seconds):
        """Keeps a sample every few seconds, the more seldom the longer the run is."""
        self.started = time.monotonic()
        interval_seconds = max(INTERVAL_SECONDS_MIN, duration_seconds / SAMPLES)
        while (left_seconds := self.started + duration_seconds - time.monotonic()) > 0:
            try:
                sample = await self.take()
            except (OSError, asyncio.IncompleteReadError):
                # The service is being restarted, or its certificate replaced.
                await asyncio.sleep(INTERVAL_SECONDS_MIN / 2)
                continue
            self.samples.append(sample)
            self.rows.writerow(sample)
            self.file.flush()
            await asyncio.sleep(min(interval_seconds, left_seconds))

    def growths(self):
        """What became of each series that must not grow."""
        span = self.samples[-1].seconds
        quarters = [[], [], [], []]
        for sample in self.samples:
            quarters[min(int(4 * sample.seconds / span), 3)].append(sample)
        _, second, _, last = quarters
        for flat in FLAT:
            before, after = (
                statistics.median(getattr(sample, flat.column) for sample in quarter) for quarter in (second, last)
            )
            yield Growth(flat, before, after, span < 0.95 * LONG_SECONDS_MIN)

    def cpu_share(self, column):
        """Share of one core over the run; a process that was restarted counts from its start."""
        values = [getattr(sample, column) for sample in self.samples]
        used_seconds = sum(max(after - before, 0) for before, after in itertools.pairwise(values))
        return used_seconds / (self.samples[-1].seconds - self.samples[0].seconds)
