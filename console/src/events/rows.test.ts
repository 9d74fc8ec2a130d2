// Claims of the list's merging.
import { expect, test } from "vitest";
import { Origin } from "../generated/hookstream/v1/event_pb";
import { mergeNewestFirst, type EventRow } from "./rows";

function rows(...sequences: number[]): EventRow[] {
  return sequences.map((sequence) => ({
    id: `evt_${sequence}`,
    sequence: BigInt(sequence),
    typeName: "",
    entityId: "",
    callbackId: "",
    endpoint: "",
    receivedAt: 0,
    origin: Origin.WEBHOOK,
    undecoded: false,
  }));
}

test("newer events go on top, older ones below", () => {
  expect(mergeNewestFirst(rows(9, 7), rows(5, 4), 10)).toEqual(rows(9, 7, 5, 4));
  expect(mergeNewestFirst(rows(5, 4), rows(9, 7), 10)).toEqual(rows(9, 7, 5, 4));
});

test("an event that the stream and the history both brought is there once", () => {
  expect(mergeNewestFirst(rows(9, 8, 7), rows(8, 7, 6), 10)).toEqual(rows(9, 8, 7, 6));
});

test("beyond the bound the oldest go", () => {
  expect(mergeNewestFirst(rows(9, 8), rows(7, 6), 3)).toEqual(rows(9, 8, 7));
});

test("one side may be empty", () => {
  expect(mergeNewestFirst([], rows(3, 2), 10)).toEqual(rows(3, 2));
  expect(mergeNewestFirst(rows(3, 2), [], 10)).toEqual(rows(3, 2));
});
