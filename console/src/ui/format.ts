// Numbers, times and names as people read them. All times are UTC, as the commands print them.
import type { Duration, Timestamp } from "@bufbuild/protobuf/wkt";
import { timestampMs } from "@bufbuild/protobuf/wkt";

const COUNT = new Intl.NumberFormat("en-GB");

export function count(value: number | bigint): string {
  return COUNT.format(value);
}

/** `1 event`, `2 events`. */
export function counted(value: number | bigint, noun: string): string {
  return `${count(value)} ${noun}${Number(value) === 1 ? "" : "s"}`;
}

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let scaled = value;
  while (scaled >= 1024 && unit < units.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? scaled : significant(scaled)} ${units[unit]}`;
}

export function perSecond(value: number): string {
  return `${significant(value)}/s`;
}

export function seconds(value: number): string {
  if (value < 0.001) {
    return `${significant(value * 1e6)} µs`;
  }
  return value < 1 ? `${significant(value * 1000)} ms` : `${significant(value)} s`;
}

/** Three digits that matter. */
function significant(value: number): string {
  return value >= 100 ? COUNT.format(Math.round(value)) : String(Number(value.toPrecision(3)));
}

/** The largest unit that fits: `35 s`, `4 min`, `3 h`, `12 days`. */
export function age(milliseconds: number): string {
  const total = Math.max(0, Math.round(milliseconds / 1000));
  if (total < 60) {
    return `${total} s`;
  }
  if (total < 3600) {
    return `${Math.floor(total / 60)} min`;
  }
  if (total < 86_400) {
    return `${Math.floor(total / 3600)} h`;
  }
  const days = Math.floor(total / 86_400);
  return days === 1 ? "1 day" : `${count(days)} days`;
}

export function durationMilliseconds(duration: Duration): number {
  return Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

/** `19:02:46`, and the day before it where that is another one than today. */
export function clockTime(milliseconds: number, now: number): string {
  const text = new Date(milliseconds).toISOString();
  const time = text.slice(11, 19);
  return text.slice(0, 10) === new Date(now).toISOString().slice(0, 10)
    ? time
    : `${text.slice(5, 10)} ${time}`;
}

/** `2026-03-25 12:05:00.123 UTC`. */
export function fullTime(timestamp: Timestamp): string {
  return `${new Date(timestampMs(timestamp)).toISOString().replace("T", " ").replace("Z", "")} UTC`;
}

/** The name of a value of a protobuf enum for people: `ENDPOINT_STATE_ACTIVE` is generated as `ACTIVE` and read `active`. */
export function enumName(values: Record<number, string>, value: number): string {
  return (values[value] ?? `unknown (${value})`).toLowerCase().replaceAll("_", " ");
}
