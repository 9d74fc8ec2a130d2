// Claims of subscriptions, endpoints and rates.
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

/** Three dead letters of a subscription. */
async function putAside(): Promise<void> {
  await service.command(
    "subscription",
    "create",
    "billing",
    "--from-start",
    "--max-unacknowledged-per-stream",
    "1",
  );
  for (const video_id of ["vid_1", "vid_2", "vid_3"]) {
    await service.deliver("prod", "avatar_video.fail", { data: { video_id } });
  }
  await service.command("tail", "--subscription", "billing", "--count", "3", "--exec", "exit 65");
}

test("dead letters are replayed, one or all", async () => {
  await putAside();
  await visit.go("subscriptions");
  await visit.row("billing").click();
  const letters = visit.page.getByRole("region", { name: "Dead letters" });
  await letters.getByText("vid_3").waitFor();
  await letters.getByLabel("Choose avatar_video.fail vid_2").check();
  await letters.getByRole("button", { name: "Replay 1 chosen" }).click();
  await letters.getByText("1 dead letter handed out again. 2 dead letters left.").waitFor();
  await letters.getByText("vid_2").waitFor({ state: "detached" });
  const replayed = await service.command("tail", "--subscription", "billing", "--count", "1");
  expect(replayed).toContain("vid_2");
  await letters.getByRole("button", { name: "Replay all" }).click();
  await letters.getByText("2 dead letters handed out again. None is left.").waitFor();
  await letters.getByText("Nothing is put aside.").waitFor();
});

test("dead letters are discarded only after a yes", async () => {
  await putAside();
  await visit.go("subscriptions/billing");
  const letters = visit.page.getByRole("region", { name: "Dead letters" });
  const dialog = visit.page.getByRole("dialog");
  await letters.getByRole("button", { name: "Discard all" }).click();
  await dialog.getByText("forgets all 3 dead letters").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "detached" });
  await letters.getByRole("button", { name: "Discard all" }).click();
  await visit.page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  await letters.getByText("vid_1").waitFor();
  await letters.getByRole("button", { name: "Discard all" }).click();
  await dialog.getByRole("button", { name: "Discard all" }).click();
  await letters.getByText("3 dead letters forgotten. None is left.").waitFor();
  const after = await service.command("subscription", "dead-letters", "list", "billing");
  expect(after).not.toContain("vid_1");
});

test("a dead letter opens as the event it is", async () => {
  await putAside();
  await visit.go("subscriptions/billing");
  await visit.page.getByRole("region", { name: "Dead letters" }).getByRole("link").first().click();
  await visit.page.getByRole("region", { name: "Raw body" }).getByText("vid_3").waitFor();
});

test("a subscription that is gone is said to be gone", async () => {
  await visit.go("subscriptions/nobody");
  await visit.page.getByRole("alert").filter({ hasText: "There is no subscription of this name" }).waitFor();
});

test("endpoints say when they last heard and what did not verify", async () => {
  await service.createEndpoint("quiet");
  await service.deliver("prod", "avatar_video.success");
  await service.deliverBody("prod", "{}", "0".repeat(64));
  await visit.go("endpoints");
  await visit.row("quiet").getByText("none yet").waitFor();
  await visit.row("prod").getByText(/ago$/).waitFor();
  await until(
    async () => (await visit.row("prod").locator(".unverified").textContent())?.trim() === "1",
    6000,
  );
  await visit.page.getByLabel("Search endpoints").fill("qui");
  await visit.row("prod").waitFor({ state: "detached" });
  await visit.row("quiet").click();
  await visit.page.getByRole("region", { name: "quiet" }).getByText("version 1").waitFor();
  await visit.page.getByRole("link", { name: "Its events" }).click();
  await visit.page.getByText("No event that is stored matches").waitFor();
});

test("rates move when deliveries come", async () => {
  await visit.go("rates");
  const deliveries = visit.page.getByRole("img", { name: /^Deliveries/ });
  await deliveries.waitFor();
  await service.deliver("prod", "avatar_video.success", { count: 60, rate: 20 });
  await until(async () => /stored [1-9]/.test((await deliveries.getAttribute("aria-label")) ?? ""), 8000);
  await visit.page.getByRole("img", { name: /^Commit time.*p50 [\d.]+ (µs|ms)/ }).waitFor();
  await visit.page.getByRole("img", { name: /^Streams.*open 1/ }).waitFor();
});
