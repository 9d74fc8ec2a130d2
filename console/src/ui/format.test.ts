// Claims of how numbers and times read.
import { expect, test } from "vitest";
import { age, bytes, clockTime, counted, enumName, perSecond, seconds } from "./format";

test("quantities have the unit that fits", () => {
  expect([bytes(0), bytes(1023), bytes(45056), bytes(5 * 1024 ** 3)]).toEqual([
    "0 B",
    "1023 B",
    "44 KiB",
    "5 GiB",
  ]);
  expect([seconds(0.00004), seconds(0.0123), seconds(1.5)]).toEqual(["40 µs", "12.3 ms", "1.5 s"]);
  expect([perSecond(0), perSecond(0.1), perSecond(1234.5)]).toEqual(["0/s", "0.1/s", "1,235/s"]);
  expect([counted(1, "event"), counted(10_000n, "event")]).toEqual(["1 event", "10,000 events"]);
});

test("an age is in its largest unit and never negative", () => {
  expect([-5000, 59_000, 60_000, 7_200_000, 86_400_000, 86_400_000 * 12].map(age)).toEqual([
    "0 s",
    "59 s",
    "1 min",
    "2 h",
    "1 day",
    "12 days",
  ]);
});

test("the day is said where it is not today", () => {
  const at = Date.UTC(2026, 2, 25, 19, 2, 46);
  expect(clockTime(at, at + 1000)).toBe("19:02:46");
  expect(clockTime(at, at + 86_400_000)).toBe("03-25 19:02:46");
});

test("enum values read as words, those of a later version too", () => {
  expect(enumName({ 3: "DEAD_LETTER" }, 3)).toBe("dead letter");
  expect(enumName({}, 9)).toBe("unknown (9)");
});
