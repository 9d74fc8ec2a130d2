// Claims of credentials.
import { afterEach, beforeEach, expect, test } from "vitest";
import { Service, until } from "./service";
import { Visit } from "./visit";

const OPERATOR = "operator-token-of-the-console-tests-0123456789";
const READ_ALL = ["events:read", "endpoints:read", "metrics:read"];

let service: Service;
let visit: Visit;

beforeEach(async () => {
  service = await Service.start(OPERATOR);
  await service.createEndpoint("prod");
  await service.deliver("prod", "avatar_video.success", { data: { video_id: "vid_secret" } });
  visit = await Visit.start(service);
});

afterEach(async () => {
  const { faults } = visit;
  await visit.end();
  await service.dispose();
  expect(faults).toEqual([]);
});

async function signIn(token: string): Promise<void> {
  await visit.page.getByLabel("Token").fill(token);
  await visit.page.getByRole("button", { name: "Sign in" }).click();
}

test("a token is asked for, tried, and kept for this tab only", async () => {
  await visit.go();
  await visit.page.getByText("asks everybody for a token").waitFor();
  await signIn("wrong");
  await visit.page.getByText("does not accept this token").waitFor();
  const token = await service.createToken("reader", ...READ_ALL);
  await signIn(token);
  await visit.row("vid_secret").waitFor();
  await visit.page.reload();
  await visit.row("vid_secret").waitFor();
  expect(await visit.page.evaluate(() => Object.values(localStorage).join())).not.toContain(token);
  expect(await visit.page.evaluate(() => [document.cookie, Object.keys(sessionStorage).join()])).toEqual([
    "",
    "hookstream.token",
  ]);

  await visit.page.getByRole("button", { name: "Sign out" }).click();
  await visit.page.getByText("You are signed out").waitFor();
  expect(await visit.page.content()).not.toContain("vid_secret");
  expect(await visit.page.evaluate(() => sessionStorage.length)).toBe(0);
  await visit.page.reload();
  await visit.page.getByText("asks everybody for a token").waitFor();
});

test("a token that is revoked while a stream is open takes everything shown with it", async () => {
  const token = await service.createToken("reader", ...READ_ALL);
  await visit.go();
  await signIn(token);
  await visit.row("vid_secret").click();
  await visit.page.getByRole("region", { name: "Raw body" }).waitFor();
  await visit.live();
  await service.command("token", "revoke", "reader");
  await visit.page.getByText("Your token has ended").waitFor({ timeout: 5000 });
  expect(await visit.page.content()).not.toContain("vid_secret");
  expect(await visit.page.evaluate(() => sessionStorage.length)).toBe(0);
  await signIn(token);
  await visit.page.getByText("does not accept this token").waitFor();
});

test("a token that is revoked while nobody looks takes everything with it too", async () => {
  await visit.go();
  await signIn(await service.createToken("reader", ...READ_ALL));
  await visit.row("vid_secret").waitFor();
  await visit.look(false);
  await visit.page.locator("[data-state=asleep]").waitFor({ timeout: 20_000 });
  await service.command("token", "revoke", "reader");
  await visit.page.getByText("Your token has ended").waitFor({ timeout: 30_000 });
  expect(await visit.page.content()).not.toContain("vid_secret");
});

test("without metrics:read the rates say so and the rest works", async () => {
  await visit.go();
  await signIn(await service.createToken("reader", "events:read", "endpoints:read"));
  await visit.row("vid_secret").waitFor();
  await visit.page.getByRole("link", { name: "Rates" }).click();
  await visit.page.getByText("lacks the scope metrics:read").waitFor();
  await visit.page.getByRole("link", { name: "Endpoints" }).click();
  await visit.row("prod").waitFor();
  await visit.page.getByText("Unverified deliveries are not shown").waitFor();
});

test("a token for metrics only sees the rates and is told of the rest", async () => {
  await visit.go("rates");
  await signIn(await service.createToken("meter", "metrics:read"));
  await visit.page.getByRole("img", { name: /^Deliveries/ }).waitFor();
  await visit.page.getByRole("link", { name: "Events" }).click();
  await visit.page.getByRole("alert").filter({ hasText: "lacks the scope events:read" }).waitFor();
});

test("a token that may see one endpoint is told to filter by it", async () => {
  const answer = await service.command(
    ...["token", "create", "narrow", "--scope", "events:read", "--endpoint", "prod", "--json"],
  );
  await visit.go();
  await signIn((JSON.parse(answer) as { create: { secret: string } }).create.secret);
  await visit.page.getByText("may see only some events").waitFor();
  await visit.page.getByLabel("Endpoint").fill("prod");
  await visit.page.getByLabel("Endpoint").press("Enter");
  await visit.row("vid_secret").waitFor();
});

test("without events:acknowledge nothing is replayed, and that is said", async () => {
  await service.command("subscription", "create", "billing", "--from-start");
  await service.command("tail", "--subscription", "billing", "--count", "1", "--exec", "exit 65");
  await visit.go("subscriptions/billing");
  await signIn(await service.createToken("reader", ...READ_ALL));
  await visit.page.getByRole("button", { name: "Replay all" }).click();
  await visit.page.getByRole("alert").filter({ hasText: "events:acknowledge" }).waitFor();
  await until(
    async () => (await service.command("subscription", "get", "billing", "--json")).includes('"deadLetters"'),
    1000,
  );
});
