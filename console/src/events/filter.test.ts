// Claims of the filter between form, address and request.
import { expect, test } from "vitest";
import { filterOf, isEmpty, NO_FILTER, readFilter, writeFilter } from "./filter";

test("values are separated by commas, and white space around them is nobody's", () => {
  expect(filterOf({ ...NO_FILTER, type: " *.fail, avatar_video.* ,", entity: "vid_1" })).toEqual({
    eventTypes: ["*.fail", "avatar_video.*"],
    entityIds: ["vid_1"],
    callbackIds: [],
    endpoints: [],
  });
});

test("a filter survives the address", () => {
  const filter = { type: "*.fail", endpoint: "prod,staging", entity: "a&b=c", callback: "" };
  const query = new URLSearchParams();
  writeFilter(filter, query);
  expect(readFilter(new URLSearchParams(query.toString()))).toEqual(filter);
});

test("what is empty is not in the address", () => {
  const query = new URLSearchParams("type=x");
  writeFilter(NO_FILTER, query);
  expect(query.toString()).toBe("");
  expect(isEmpty(readFilter(query))).toBe(true);
});
