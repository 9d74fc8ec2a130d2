// Claims of the events view.
import { afterEach, beforeEach, expect, test } from "vitest";
import { Service, until } from "./service";
import { Visit } from "./visit";

let service: Service;
let visit: Visit;

beforeEach(async () => {
  service = await Service.start();
  await service.createEndpoint("prod");
  visit = await Visit.start(service);
});

afterEach(async () => {
  const { faults } = visit;
  await visit.end();
  await service.dispose();
  expect(faults).toEqual([]);
});

test("an event is shown when it comes", async () => {
  await visit.go();
  await visit.live();
  await visit.page.getByText("No event is stored yet").waitFor();
  await service.deliver("prod", "avatar_video.success", { data: { video_id: "vid_live" } });
  await visit.row("vid_live").waitFor();
  await service.deliver("prod", "avatar_video.fail", { data: { video_id: "vid_second" } });
  await visit.row("vid_second").waitFor();
  expect(await visit.list.getByRole("row").nth(1).textContent()).toContain("vid_second");
});

test("the service filters, by what was typed and by the address", async () => {
  await service.deliver("prod", "avatar_video.success", { data: { video_id: "vid_good" } });
  await service.deliver("prod", "avatar_video.fail", {
    data: { video_id: "vid_bad", callback_id: "order_7" },
  });
  await visit.go();
  await visit.row("vid_good").waitFor();
  await visit.page.getByLabel("Type").fill("*.fail");
  await visit.page.getByLabel("Type").press("Enter");
  await visit.row("vid_good").waitFor({ state: "detached" });
  await visit.row("vid_bad").waitFor();
  await visit.live();
  await service.deliver("prod", "avatar_video.success", { data: { video_id: "vid_good_2" } });
  await service.deliver("prod", "video_agent.fail", { data: { session_id: "ses_bad_2" } });
  await visit.row("ses_bad_2").waitFor();
  expect(await visit.rowCount()).toBe(2);

  await visit.page.reload();
  await visit.row("ses_bad_2").waitFor();
  expect(await visit.rowCount()).toBe(2);

  await visit.page.getByRole("link", { name: "Rates" }).click();
  await visit.page.getByRole("link", { name: "Events", exact: true }).click();
  await visit.row("ses_bad_2").waitFor();
  expect(await visit.rowCount()).toBe(2);

  for (const place of ["events?entity=vid_good", "events?callback=order_7", "events?endpoint=none"]) {
    await visit.go(place);
    const count = place.endsWith("none") ? 0 : 1;
    await until(async () => (await visit.rowCount()) === count, 5000);
  }
  await visit.page.getByText("No event that is stored matches").waitFor();
});

test("a pattern that cannot match is refused in words", async () => {
  await visit.go("events?type=NO!");
  await visit.page.getByRole("alert").waitFor();
  await visit.page.getByRole("button", { name: "Clear" }).click();
  await visit.live();
});

test("an opened event shows typed fields, and the raw body with every digit", async () => {
  await service.deliver("prod", "avatar_video.fail", {
    data: '{"video_id":"vid_1","msg":"timed out","callback_id":"order_7","big":12345678901234567890}',
  });
  await visit.go();
  await visit.row("vid_1").click();
  const typed = visit.page.getByRole("region", { name: "Typed fields" });
  expect(await typed.locator("dt", { hasText: "msg" }).locator("+ dd").textContent()).toContain("timed out");
  const raw = visit.page.getByRole("region", { name: "Raw body" });
  expect(await raw.locator("pre").textContent()).toContain('"big": 12345678901234567890');
  await raw.getByRole("button", { name: "As delivered" }).click();
  expect(await raw.locator("pre").textContent()).toContain('"big":12345678901234567890');
  await visit.page.getByText("HMAC-SHA256 over the body").waitFor();
  await visit.page.getByText("a signed delivery to the endpoint").waitFor();

  await visit.page.reload();
  await typed.getByText("timed out").waitFor();
  await visit.page.getByRole("button", { name: "All events of this entity" }).click();
  await until(async () => visit.page.url().endsWith("#/events?entity=vid_1"), 5000);
});

test("what the body holds is text and nothing else", async () => {
  await service.deliver("prod", "avatar_video.fail", {
    data: { video_id: "<img src=x onerror=alert(1)>", msg: "javascript:alert(1)" },
  });
  await visit.go();
  await visit.row("<img src=x").click();
  await visit.page.getByRole("region", { name: "Typed fields" }).waitFor();
  expect(await visit.page.locator("main img, main a[href^=javascript]").count()).toBe(0);
});

test("a body of almost a megabyte opens, its beginning first", async () => {
  const numbers = Array.from({ length: 60_000 }, (_, index) => index * 1_000_003);
  const video_id = "v".repeat(240);
  const body = { event_type: "avatar_video.success", event_data: { video_id, numbers } };
  await service.deliverBody("prod", JSON.stringify(body));
  await visit.go();
  await visit.row("avatar_video.success").click();
  const raw = visit.page.getByRole("region", { name: "Raw body" });
  await raw.getByRole("button", { name: "Show all" }).click();
  await until(
    async () => ((await raw.locator("pre").textContent()) ?? "").includes(String(59_999 * 1_000_003)),
    5000,
  );
  await raw.getByRole("button", { name: "As delivered" }).click();
  await until(async () => ((await raw.locator("pre").textContent()) ?? "").endsWith("}"), 5000);
});

test("what is no JSON, and what is no text, is shown as it came", async () => {
  await service.deliverBody("prod", "plainly not JSON");
  await service.deliverBody("prod", new Uint8Array([0xff, 0xfe, 0x41]));
  await visit.go();
  await visit.row("(no type)").nth(1).click();
  const raw = visit.page.getByRole("region", { name: "Raw body" });
  await raw.getByText("plainly not JSON").waitFor();
  await visit.page.getByText("The body is signed, but it is not JSON.").waitFor();
  await visit.row("(no type)").nth(0).click();
  await raw.getByText("ff fe 41").waitFor();
});

test("what comes while paused waits", async () => {
  await visit.go();
  await visit.live();
  await visit.page.getByRole("button", { name: "Pause" }).click();
  await service.deliver("prod", "avatar_video.success", { count: 3 });
  await visit.page.getByRole("button", { name: "Resume (3 new)" }).waitFor();
  expect(await visit.rowCount()).toBe(0);
  await visit.page.getByRole("button", { name: "Resume" }).click();
  await until(async () => (await visit.rowCount()) === 3, 5000);
});

test("older events are loaded page by page, to the oldest", async () => {
  await service.deliver("prod", "avatar_video.success", { count: 750 });
  await visit.go();
  await until(async () => (await visit.rowCount()) === 200, 5000);
  await visit.list.focus();
  await visit.page.keyboard.press("End");
  await visit.page.getByRole("button", { name: "Load older" }).click();
  await until(async () => (await visit.rowCount()) === 700, 5000);
  await visit.list.focus();
  await visit.page.keyboard.press("End");
  await visit.page.getByRole("button", { name: "Load older" }).click();
  await until(async () => (await visit.rowCount()) === 750, 5000);
  await visit.page.getByText("This is the oldest event that is kept").waitFor();
});

test("what is being read stays where it is when events come", async () => {
  await service.deliver("prod", "avatar_video.success", { count: 150 });
  await visit.go();
  await until(async () => (await visit.rowCount()) === 150, 5000);
  await visit.live();
  await visit.list.evaluate((list) => list.scrollTo(0, 1500));
  const row = visit.list.getByRole("row").nth(12);
  await until(async () => Number(await row.getAttribute("aria-rowindex")) > 40, 5000);
  const id = await row.getAttribute("id");
  const before = await row.boundingBox();
  await service.deliver("prod", "avatar_video.fail", { count: 20 });
  await until(async () => (await visit.rowCount()) === 170, 5000);
  const after = await visit.page.locator(`[id="${id}"]`).boundingBox();
  expect(after?.y).toBeCloseTo(before?.y ?? -1, 0);
});

test("the keys walk, open, close, filter and explain", async () => {
  for (const video_id of ["vid_c", "vid_b", "vid_a"]) {
    await service.deliver("prod", "avatar_video.success", { data: { video_id } });
  }
  await visit.go();
  await visit.row("vid_c").waitFor();
  const keys = visit.page.keyboard;
  const active = () => visit.page.locator(".row.active").textContent();
  await keys.press("j");
  expect(await active()).toContain("vid_a");
  await keys.press("j");
  await keys.press("ArrowDown");
  expect(await active()).toContain("vid_c");
  await keys.press("k");
  expect(await active()).toContain("vid_b");
  await keys.press("Enter");
  await visit.page.getByRole("region", { name: "avatar_video.success" }).waitFor();
  await visit.page.getByText("vid_b", { exact: true }).first().waitFor();
  await keys.press("Escape");
  await visit.page.getByRole("region", { name: "avatar_video.success" }).waitFor({ state: "detached" });
  expect(await visit.list.evaluate((list) => list === document.activeElement)).toBe(true);
  await keys.press("ArrowUp");
  expect(await active()).toContain("vid_a");
  await keys.press("/");
  await keys.type("*.j");
  expect(await visit.page.getByLabel("Type").inputValue()).toBe("*.j");
  await visit.page.getByLabel("Type").fill("");
  await keys.press("Escape");
  await keys.press("?");
  const help = visit.page.getByRole("dialog");
  await help.waitFor();
  await help.getByLabel("Use the keys").uncheck();
  await keys.press("Escape");
  await help.waitFor({ state: "detached" });
  await keys.press("?");
  await keys.press("/");
  expect(await help.count()).toBe(0);
  expect(await visit.page.evaluate(() => document.activeElement?.tagName)).not.toBe("INPUT");
});
