// The filter as people type it and as addresses carry it. Knows the fields of an EventFilter and nothing of what matches:
// the service filters.
import type { Filter } from "../api/api";

/** What is typed: values of one field with commas between them. */
export interface FilterText {
  type: string;
  endpoint: string;
  entity: string;
  callback: string;
}

export const NO_FILTER: FilterText = { type: "", endpoint: "", entity: "", callback: "" };

const FIELDS = ["type", "endpoint", "entity", "callback"] as const;

export function filterOf(text: FilterText): Filter {
  return {
    eventTypes: values(text.type),
    endpoints: values(text.endpoint),
    entityIds: values(text.entity),
    callbackIds: values(text.callback),
  };
}

/** The filter in the query of an address. */
export function readFilter(query: URLSearchParams): FilterText {
  const text = { ...NO_FILTER };
  for (const field of FIELDS) {
    text[field] = query.get(field) ?? "";
  }
  return text;
}

export function writeFilter(text: FilterText, query: URLSearchParams): void {
  for (const field of FIELDS) {
    const value = values(text[field]).join(",");
    if (value === "") {
      query.delete(field);
    } else {
      query.set(field, value);
    }
  }
}

export function isEmpty(text: FilterText): boolean {
  return FIELDS.every((field) => values(text[field]).length === 0);
}

function values(text: string): string[] {
  return text
    .split(",")
    .map((value) => value.trim())
    .filter((value) => value !== "");
}
