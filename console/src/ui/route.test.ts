// Claims of addresses.
import { expect, test, vi } from "vitest";

vi.stubGlobal("location", { hash: "" });
vi.stubGlobal("addEventListener", () => {});
const { formatPlace, parsePlace } = await import("./route.svelte");

test("an address says the view, what is open and the filter", () => {
  const place = parsePlace("#/events/evt_1?type=*.fail");
  expect(place.view).toBe("events");
  expect(place.open).toBe("evt_1");
  expect(place.query.get("type")).toBe("*.fail");
  expect(parsePlace(formatPlace(place))).toEqual(place);
});

test.each(["", "#", "#/", "#/nowhere", "#/%E0%A4%A"])("%s leads to the events", (hash) => {
  expect(parsePlace(hash).view).toBe("events");
});
