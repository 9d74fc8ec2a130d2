// Claims of size: with as many events as the page holds and a thousand endpoints, everything can be done and only what is in
// sight is drawn. How long the slowest interaction took is printed; what is too long depends on the machine.
import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { afterAll, beforeAll, expect, test } from "vitest";
import { HookstreamService } from "../src/generated/hookstream/v1/hookstream_service_pb";
import { Service, until } from "./service";
import { Visit } from "./visit";

let service: Service;
let visit: Visit;

beforeAll(async () => {
  service = await Service.start();
  await service.createEndpoint("prod");
  const client = createClient(HookstreamService, createGrpcWebTransport({ baseUrl: service.adminUrl }));
  for (let i = 0; i < 999; i += 1) {
    const name = `customer-${String(i).padStart(4, "0")}`;
    await client.manageEndpoint({
      operation: { case: "create", value: { name, eventTypes: ["avatar_video.*"] } },
    });
  }
  await service.deliver("prod", "avatar_video.success", { count: 10_500 });
  visit = await Visit.start(service);
});

afterAll(async () => {
  const { faults } = visit;
  await visit.end();
  await service.dispose();
  expect(faults).toEqual([]);
});

/** The slowest interaction of what is done, from the press to the next picture, in milliseconds. */
async function slowest(act: () => Promise<void>): Promise<number> {
  await visit.page.evaluate(() => {
    const page = window as unknown as { durations: number[]; observer: PerformanceObserver | undefined };
    page.observer?.disconnect();
    page.durations = [];
    page.observer = new PerformanceObserver((list) => {
      page.durations.push(...list.getEntries().map(({ duration }) => duration));
    });
    page.observer.observe({ type: "event", durationThreshold: 16 } as PerformanceObserverInit);
  });
  await act();
  await visit.page.waitForTimeout(300);
  return visit.page.evaluate(() => Math.max(0, ...(window as unknown as { durations: number[] }).durations));
}

test("ten thousand events can be walked, opened and scrolled while more come", async () => {
  const { page } = visit;
  await visit.go();
  await visit.live();
  const keys = page.keyboard;
  while ((await visit.rowCount()) < 10_000) {
    const before = await visit.rowCount();
    await visit.list.focus();
    await keys.press("End");
    await page.getByRole("button", { name: "Load older" }).click();
    await until(async () => (await visit.rowCount()) > before, 10_000);
  }
  await page.getByText("This page holds 10,000 events").waitFor();
  expect(await page.locator(".body .row").count()).toBeLessThan(60);

  const arriving = service.deliver("prod", "avatar_video.fail", { count: 1600, rate: 200 });
  const walked = await slowest(async () => {
    await visit.list.focus();
    for (const key of ["Home", "j", "j", "PageDown", "PageDown", "k", "End", "k", "Home"]) {
      await keys.press(key);
      await page.waitForTimeout(60);
    }
  });
  const opened = await slowest(async () => {
    await keys.press("j");
    await keys.press("Enter");
    await page.getByRole("region", { name: "Raw body" }).waitFor();
    await keys.press("Escape");
    await visit.row("avatar_video").nth(5).click();
    await page.getByRole("region", { name: "Raw body" }).waitFor();
    await keys.press("Escape");
  });
  const paused = await slowest(async () => {
    await page.getByRole("button", { name: "Pause" }).click();
    await page.waitForTimeout(1000);
    await page.getByRole("button", { name: "Resume" }).click();
  });
  await arriving;
  expect(await visit.rowCount()).toBe(10_000);
  console.log(`slowest interactions with 10,000 events, 200/s arriving: ${walked}, ${opened}, ${paused} ms`);
});

test("a thousand endpoints can be searched and walked", async () => {
  const { page } = visit;
  await page.getByRole("link", { name: "Endpoints" }).click();
  await until(async () => (await visit.rowCount()) === 1000, 10_000);
  expect(await page.locator(".body .row").count()).toBeLessThan(60);
  const typed = await slowest(async () => {
    await page.keyboard.press("/");
    await page.keyboard.type("customer-07", { delay: 40 });
    await until(async () => (await visit.rowCount()) === 100, 5000);
    for (let i = 0; i < 11; i += 1) {
      await page.keyboard.press("Backspace");
    }
    await page.keyboard.press("Escape");
  });
  const walked = await slowest(async () => {
    for (const key of ["End", "k", "Home", "j", "PageDown", "Enter"]) {
      await page.keyboard.press(key);
      await page.waitForTimeout(60);
    }
    await page.getByRole("region", { name: /customer/ }).waitFor();
  });
  console.log(`slowest interactions with 1,000 endpoints: ${typed}, ${walked} ms`);
});
