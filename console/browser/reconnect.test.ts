// Claims of the stream across what happens to a service.
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

/** The entities of all rows, read by walking through the list. */
async function entities(): Promise<string[]> {
  const seen: string[] = [];
  await visit.list.evaluate((list) => list.scrollTo(0, 0));
  const count = await visit.rowCount();
  for (let top = 0; top < count * 34; top += 340) {
    await visit.list.evaluate((list, to) => list.scrollTo(0, to), top);
    await visit.page.evaluate(
      () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))),
    );
    for (const text of await visit.list.locator(".body .entity").allTextContents()) {
      if (!seen.includes(text.trim())) {
        seen.push(text.trim());
      }
    }
  }
  return seen;
}

test.each(["SIGKILL", "SIGTERM"] as const)(
  "after %s and a restart the stream comes back and misses nothing",
  async (signal) => {
    const deliver = (video_id: string) =>
      service.deliver("prod", "avatar_video.success", { data: { video_id } });
    await visit.go();
    await visit.live();
    await deliver("vid_0");
    await visit.row("vid_0").waitFor();
    const expected = ["vid_0"];
    for (let round = 1; round <= 2; round += 1) {
      await service.stop(signal);
      await visit.page.locator("[data-state]:not([data-state=live])").waitFor();
      await service.startAgain();
      // Before the page is back as well as after.
      for (const part of ["a", "b"]) {
        await deliver(`vid_${round}${part}`);
        expected.unshift(`vid_${round}${part}`);
      }
      await visit.page.locator("[data-state=live]").waitFor({ timeout: 30_000 });
      await deliver(`vid_${round}c`);
      expected.unshift(`vid_${round}c`);
      await visit.row(`vid_${round}c`).waitFor();
    }
    expect(await entities()).toEqual(expected);
  },
);

test("while deliveries go on and the service is killed under them, every event is shown once, in order", async () => {
  await visit.go();
  await visit.live();
  let delivering = true;
  const deliveries = (async () => {
    for (let i = 0; delivering; i += 1) {
      const body = JSON.stringify({
        event_type: "avatar_video.success",
        event_data: { video_id: `vid_${i}` },
      });
      // As HeyGen does: again until it is answered.
      await until(() => service.deliverBody("prod", body).then(() => true), 20_000);
      await new Promise((done) => setTimeout(done, 15));
    }
  })();
  for (let kill = 0; kill < 4; kill += 1) {
    await new Promise((done) => setTimeout(done, 700 + 300 * kill));
    await service.stop("SIGKILL");
    await service.startAgain();
  }
  delivering = false;
  await deliveries;
  await visit.page.locator("[data-state=live]").waitFor({ timeout: 30_000 });
  const stored = (await service.command("tail", "--from-start", "--stop-at-tail", "--json"))
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { entityId: string }).entityId)
    .reverse();
  expect(stored.length).toBeGreaterThan(100);
  await until(async () => (await visit.rowCount()) === stored.length, 10_000);
  expect(await entities()).toEqual(stored);
});

test("a service that hangs is noticed by its silence, and found again", async () => {
  await visit.go();
  await visit.live();
  service.hang(true);
  await visit.page.locator("[data-state]:not([data-state=live])").waitFor({ timeout: 20_000 });
  service.hang(false);
  await service.deliver("prod", "avatar_video.success", { data: { video_id: "vid_after" } });
  await visit.row("vid_after").waitFor({ timeout: 30_000 });
});

test("a tab that nobody looks at lets go of its stream, and misses nothing", async () => {
  const streams = async () => /^hookstream_streams (\d+)$/m.exec(await service.metrics())?.[1];
  await visit.go();
  await visit.live();
  await visit.look(false);
  await until(async () => (await streams()) === "0", 25_000);
  await service.deliver("prod", "avatar_video.success", { data: { video_id: "vid_unseen" } });
  await visit.look(true);
  await visit.row("vid_unseen").waitFor();
  await visit.live();
});

test("every view says that the service does not answer, and gets on when it does", async () => {
  await service.deliver("prod", "avatar_video.success", { data: { video_id: "vid_before" } });
  await visit.go();
  await visit.row("vid_before").waitFor();
  await service.stop("SIGKILL");
  await visit.page.locator("[data-state=waiting]").waitFor();
  for (const view of ["Endpoints", "Subscriptions"]) {
    await visit.page.getByRole("link", { name: view, exact: true }).click();
    await visit.page.getByRole("alert").filter({ hasText: "does not answer" }).waitFor();
  }
  await service.startAgain();
  await visit.page.getByRole("alert").waitFor({ state: "detached", timeout: 20_000 });
  await visit.page.locator("[data-state=live]").waitFor({ timeout: 20_000 });
});

test("another log under the same address is said, and the list starts anew", async () => {
  await service.deliver("prod", "avatar_video.success", { data: { video_id: "vid_old" } });
  await visit.go();
  await visit.row("vid_old").waitFor();
  await visit.live();
  await service.stop("SIGKILL");
  service.forgetData();
  await service.startAgain();
  await service.createEndpoint("prod");
  await service.deliver("prod", "avatar_video.success", { data: { video_id: "vid_new" } });
  await visit.row("vid_new").waitFor({ timeout: 30_000 });
  await visit.page.getByText("The list was started anew").waitFor();
  await until(async () => (await visit.row("vid_old").count()) === 0, 5000);
});
