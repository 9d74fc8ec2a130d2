// What the console takes from the service's metrics at one moment, and what two moments say together. Owns the names of
// metrics; refuses to know when they are read and how they are drawn.
import { parseOpenMetrics, type Samples } from "./openmetrics";

/** A bucket of a histogram: how many were at most this large, since the service started. */
export interface Bucket {
  atMost: number;
  count: number;
}

export interface Snapshot {
  /** When it was read, in milliseconds since 1970. */
  at: number;
  /** Deliveries since the service started, by what became of them. */
  deliveries: Record<string, number>;
  /** Events found only in HeyGen's history, since the service started. */
  found: number;
  commits: Bucket[];
  streams: number;
  logBytes: number;
  reconciliation: Reconciliation;
  /** Endpoints that the service registered, by state. */
  endpoints: Record<string, number>;
}

export interface Reconciliation {
  /** In seconds since 1970; 0 before the first. */
  lastSuccess: number;
  lagSeconds: number;
  found: number;
  failures: number;
}

/** Deliveries that did not verify, by endpoint, since the service started. */
export type Unverified = Map<string, number>;

export function readSnapshot(text: string, at: number): { snapshot: Snapshot; unverified: Unverified } {
  const samples = parseOpenMetrics(text);
  const one = (name: string) => samples.get(name)?.[0]?.value ?? 0;
  const found = one("hookstream_reconciliation_found_events_total");
  const snapshot = {
    at,
    deliveries: byLabel(samples, "hookstream_deliveries_total", "outcome"),
    found,
    commits: buckets(samples, "hookstream_log_commit_seconds_bucket"),
    streams: one("hookstream_streams"),
    logBytes: one("hookstream_log_size_bytes"),
    reconciliation: {
      lastSuccess: one("hookstream_reconciliation_last_success_timestamp_seconds"),
      lagSeconds: one("hookstream_reconciliation_lag_seconds"),
      found,
      failures: one("hookstream_reconciliation_failures_total"),
    },
    endpoints: byLabel(samples, "hookstream_endpoints", "state"),
  };
  const unverified = byLabel(samples, "hookstream_endpoint_unverified_deliveries_total", "endpoint");
  return { snapshot, unverified: new Map(Object.entries(unverified)) };
}

/** Events stored since the service started. */
export function stored(snapshot: Snapshot): number {
  return (snapshot.deliveries.stored ?? 0) + snapshot.found;
}

/** How much a counter grew a second; undefined where the service was restarted in between and counts anew. */
export function perSecond(
  before: Snapshot,
  after: Snapshot,
  counter: (snapshot: Snapshot) => number,
): number | undefined {
  const grown = counter(after) - counter(before);
  const seconds = (after.at - before.at) / 1000;
  return grown < 0 || seconds <= 0 ? undefined : grown / seconds;
}

/** The value that a share `q` of what happened between two moments did not exceed; undefined if nothing happened. */
export function quantile(before: readonly Bucket[], after: readonly Bucket[], q: number): number | undefined {
  const counts = after.map(({ atMost, count }, index) => ({
    atMost,
    count: count - (before[index]?.count ?? 0),
  }));
  const total = counts.at(-1)?.count ?? 0;
  if (total <= 0 || counts.some(({ count }) => count < 0)) {
    return undefined;
  }
  const rank = q * total;
  let lower = { atMost: 0, count: 0 };
  for (const bucket of counts) {
    if (bucket.count >= rank) {
      if (bucket.atMost === Infinity) {
        // All that is known is that it was more than the last bound.
        return lower.atMost;
      }
      const share = bucket.count === lower.count ? 1 : (rank - lower.count) / (bucket.count - lower.count);
      return lower.atMost + (bucket.atMost - lower.atMost) * share;
    }
    lower = bucket;
  }
  return undefined;
}

function byLabel(samples: Samples, name: string, label: string): Record<string, number> {
  const values: Record<string, number> = {};
  for (const { labels, value } of samples.get(name) ?? []) {
    values[labels[label] ?? ""] = value;
  }
  return values;
}

function buckets(samples: Samples, name: string): Bucket[] {
  const read = (samples.get(name) ?? []).map(({ labels, value }) => ({
    atMost: labels.le === "+Inf" ? Infinity : Number(labels.le),
    count: value,
  }));
  return read.sort((a, b) => a.atMost - b.atMost);
}
