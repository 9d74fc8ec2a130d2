// Claims of what two readings of the metrics say together.
import { expect, test } from "vitest";
import { perSecond, quantile, readSnapshot, stored } from "./snapshot";

const TEXT = `hookstream_streams 2
hookstream_deliveries_total{outcome="stored"} 30
hookstream_deliveries_total{outcome="duplicate"} 4
hookstream_reconciliation_found_events_total 1
hookstream_reconciliation_last_success_timestamp_seconds 1795719852
hookstream_endpoints{state="active"} 3
hookstream_log_size_bytes 45056
hookstream_log_commit_seconds_bucket{le="+Inf"} 9
hookstream_log_commit_seconds_bucket{le="0.0002"} 6
hookstream_log_commit_seconds_bucket{le="0.0001"} 5
hookstream_endpoint_unverified_deliveries_total{endpoint="prod"} 7
# EOF
`;

test("takes what the console shows, and buckets in their order", () => {
  const { snapshot, unverified } = readSnapshot(TEXT, 1000);
  expect(snapshot).toMatchObject({
    at: 1000,
    deliveries: { stored: 30, duplicate: 4 },
    streams: 2,
    logBytes: 45056,
    reconciliation: { found: 1, failures: 0, lastSuccess: 1795719852, lagSeconds: 0 },
    endpoints: { active: 3 },
  });
  expect(snapshot.commits).toEqual([
    { atMost: 0.0001, count: 5 },
    { atMost: 0.0002, count: 6 },
    { atMost: Infinity, count: 9 },
  ]);
  expect(unverified.get("prod")).toBe(7);
  expect(stored(snapshot)).toBe(31);
});

test("a rate is growth over time, and nothing across a restart of the service", () => {
  const at = (milliseconds: number, streams: number) => ({
    ...readSnapshot(TEXT, milliseconds).snapshot,
    deliveries: { stored: streams },
    found: 0,
  });
  expect(perSecond(at(0, 10), at(2000, 30), stored)).toBe(10);
  expect(perSecond(at(0, 10), at(2000, 3), stored)).toBeUndefined();
  expect(perSecond(at(5, 10), at(5, 30), stored)).toBeUndefined();
});

test("a quantile lies in its bucket, in proportion", () => {
  const before = [
    { atMost: 1, count: 100 },
    { atMost: 2, count: 100 },
    { atMost: Infinity, count: 100 },
  ];
  const after = [
    { atMost: 1, count: 105 },
    { atMost: 2, count: 110 },
    { atMost: Infinity, count: 110 },
  ];
  expect(quantile(before, after, 0.5)).toBe(1);
  expect(quantile(before, after, 0.75)).toBe(1.5);
  expect(quantile(before, after, 1)).toBe(2);
});

test("a quantile beyond the last bound is the bound, and of nothing it is nothing", () => {
  const before = [
    { atMost: 1, count: 0 },
    { atMost: Infinity, count: 0 },
  ];
  const beyond = [
    { atMost: 1, count: 0 },
    { atMost: Infinity, count: 5 },
  ];
  expect(quantile(before, beyond, 0.9)).toBe(1);
  expect(quantile(before, before, 0.9)).toBeUndefined();
  expect(quantile(beyond, before, 0.9)).toBeUndefined();
});
