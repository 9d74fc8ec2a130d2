// The list of events as the page keeps it: a few fields of each, newest first, bounded. Owns merging; refuses to know
// where events come from. What a body holds is asked for when an event is opened, so that memory does not depend on it.
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { DecodeStatus, Origin, type Event } from "../generated/hookstream/v1/event_pb";

/** What a line of the list shows. */
export interface EventRow {
  id: string;
  sequence: bigint;
  typeName: string;
  entityId: string;
  callbackId: string;
  endpoint: string;
  receivedAt: number;
  origin: Origin;
  /** Nothing could be read of it, or not all. */
  undecoded: boolean;
}

/** The most events that are kept. */
export const ROWS_MAX = 10_000;
/** The most characters of a type that a line has use for. */
const CHARACTERS_MAX = 200;

export function rowOf(event: Event): EventRow {
  return {
    id: event.id,
    sequence: event.sequence,
    typeName: short(event.typeName),
    entityId: event.entityId,
    callbackId: event.callbackId,
    endpoint: event.endpoint,
    receivedAt: event.receivedAt === undefined ? 0 : timestampMs(event.receivedAt),
    origin: event.origin,
    undecoded:
      event.decodeStatus !== DecodeStatus.COMPLETE && event.decodeStatus !== DecodeStatus.UNKNOWN_TYPE,
  };
}

/** The beginning of a type, the one field that the service does not bound: as a copy, because a slice keeps the whole. */
function short(text: string): string {
  return text.length <= CHARACTERS_MAX ? text : `${[...text.slice(0, CHARACTERS_MAX)].join("")}…`;
}

/** Merges two lists that are newest first into one that holds each event once, and at most `max`, the newest. */
export function mergeNewestFirst(
  left: readonly EventRow[],
  right: readonly EventRow[],
  max: number,
): EventRow[] {
  const merged: EventRow[] = [];
  let i = 0;
  let j = 0;
  while (merged.length < max) {
    const a = left[i];
    const b = right[j];
    if (a === undefined && b === undefined) {
      break;
    }
    if (b === undefined || (a !== undefined && a.sequence >= b.sequence)) {
      merged.push(a as EventRow);
      i += 1;
      j += a?.sequence === b?.sequence ? 1 : 0;
    } else {
      merged.push(b);
      j += 1;
    }
  }
  return merged;
}
