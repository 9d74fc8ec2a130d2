// Claims of what can be seen and by whom: no serious fault that axe knows, in every view, light and dark; and a phone's width
// is enough. Takes the screenshots of the README with HOOKSTREAM_SCREENSHOTS=1.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Service } from "./service";
import { Visit } from "./visit";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SCREENSHOTS = join(import.meta.dirname, "../screenshots");
const TAKES_SCREENSHOTS = process.env.HOOKSTREAM_SCREENSHOTS === "1";

const OPERATOR = "operator-token-of-the-console-tests-0123456789";
const TYPES = [
  "avatar_video.success",
  "video_translate.success",
  "avatar_video.fail",
  "photo_avatar_generation.success",
  "avatar_video_caption.success",
  "ai_clipping.success",
  "video_agent.fail",
  "personalized_video",
  "batch.finished",
  "proofread_creation.success",
];

/** The views, each with what shows that it is complete. */
const VIEWS: { name: string; place: string; ready: (visit: Visit) => Promise<void> }[] = [
  { name: "events", place: "events", ready: (visit) => visit.row("batch.finished").first().waitFor() },
  {
    name: "events with none that match",
    place: "events?type=nothing.here",
    ready: (visit) => visit.page.getByText("No event that is stored matches").waitFor(),
  },
  { name: "an event", place: "events", ready: openEvent },
  { name: "endpoints", place: "endpoints", ready: (visit) => visit.row("prod").waitFor() },
  {
    name: "an endpoint",
    place: "endpoints/prod",
    ready: (visit) => visit.page.getByRole("region", { name: "prod" }).waitFor(),
  },
  { name: "subscriptions", place: "subscriptions", ready: (visit) => visit.row("billing").waitFor() },
  {
    name: "a subscription",
    place: "subscriptions/billing",
    ready: (visit) => visit.page.getByRole("button", { name: "Replay all" }).waitFor(),
  },
  {
    name: "a question",
    place: "subscriptions/billing",
    ready: (visit) => visit.page.getByRole("button", { name: "Discard all" }).click(),
  },
  {
    name: "rates",
    place: "rates",
    ready: (visit) => visit.page.getByRole("img", { name: /^Deliveries/ }).waitFor(),
  },
  {
    name: "help",
    place: "rates",
    ready: (visit) => visit.page.getByRole("button", { name: "Help" }).click(),
  },
];

let service: Service;

beforeAll(async () => {
  service = await Service.start();
  await service.createEndpoint("prod");
  await service.createEndpoint("staging");
  for (let round = 0; round < 3; round += 1) {
    for (const type of TYPES) {
      await service.deliver(type.includes("translate") ? "staging" : "prod", type);
    }
  }
  await service.deliver("prod", "avatar_video.fail", {
    data: { video_id: "vid_7f3a", msg: "rendering timed out", callback_id: "order_81" },
  });
  await service.deliver("prod", "avatar_video.success");
  await service.deliver("prod", "batch.finished");
  for (const name of ["billing", "crm", "search-index"]) {
    await service.command(
      "subscription",
      "create",
      name,
      "--from-start",
      "--max-unacknowledged-per-stream",
      "1",
    );
  }
  await service.command("tail", "--subscription", "billing", "--count", "4", "--exec", "exit 65");
  await service.command("tail", "--subscription", "crm", "--count", "25", "--exec", "true");
});

afterAll(() => service.dispose());

async function openEvent(visit: Visit): Promise<void> {
  await visit.row("vid_7f3a").click();
  await visit.page.getByRole("region", { name: "Raw body" }).waitFor();
}

/** What axe finds that is serious or worse. */
async function violations(visit: Visit): Promise<string[]> {
  // The page's own policy lets no script in; the debugger's door is open.
  await visit.page.evaluate(AXE);
  return visit.page.evaluate(async () => {
    const { axe } = window as unknown as { axe: { run(): Promise<{ violations: Violation[] }> } };
    interface Violation {
      id: string;
      impact: string;
      nodes: { html: string }[];
    }
    const found = (await axe.run()).violations.filter(({ impact }) =>
      ["serious", "critical"].includes(impact),
    );
    return found.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  });
}

/** How much wider the page is than its window. */
async function excessWidth(visit: Visit): Promise<number> {
  return visit.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
}

async function screenshot(visit: Visit, name: string): Promise<void> {
  if (TAKES_SCREENSHOTS) {
    mkdirSync(SCREENSHOTS, { recursive: true });
    await visit.page.screenshot({ path: join(SCREENSHOTS, `${name}.png`) });
  }
}

describe.each([
  { colorScheme: "light", width: 1280 },
  { colorScheme: "dark", width: 1280 },
  { colorScheme: "light", width: 360 },
] as const)("$colorScheme, $width px wide", ({ colorScheme, width }) => {
  let visit: Visit;

  beforeAll(async () => {
    visit = await Visit.start(service, { colorScheme, width, height: width === 360 ? 720 : 800 });
  });

  afterAll(async () => {
    const { faults } = visit;
    await visit.end();
    expect(faults).toEqual([]);
  });

  test.each(VIEWS)("$name: axe finds nothing serious, and nothing sticks out", async ({ place, ready }) => {
    await visit.go(place);
    await visit.page.reload();
    await ready(visit);
    expect(await violations(visit)).toEqual([]);
    expect(await excessWidth(visit)).toBeLessThanOrEqual(0);
  });

  test("the switch overrides what the system prefers, and is remembered", async () => {
    const background = () => visit.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    await visit.go("events");
    await visit.page.reload();
    await visit.live();
    const system = await background();
    await visit.page.getByLabel("Theme").selectOption(colorScheme === "dark" ? "light" : "dark");
    const other = await background();
    expect(other).not.toBe(system);
    await visit.page.reload();
    await visit.live();
    expect(await background()).toBe(other);
    await visit.page.getByLabel("Theme").selectOption("system");
    expect(await background()).toBe(system);
  });

  test("the screenshots can be taken", async () => {
    await visit.page.setViewportSize({ width: Math.min(width, 1180), height: 640 });
    await visit.go("events");
    await visit.page.reload();
    await visit.live();
    await visit.row("vid_7f3a").waitFor();
    if (width === 360) {
      await screenshot(visit, "phone");
    } else if (colorScheme === "light") {
      await screenshot(visit, "events");
      await visit.go("subscriptions/billing");
      await visit.page.getByRole("button", { name: "Replay all" }).waitFor();
      await screenshot(visit, "subscriptions");
    } else {
      await openEvent(visit);
      await screenshot(visit, "event");
    }
  });
});

test("with everything that the header can hold, 320 px are enough", async () => {
  const guarded = await Service.start(OPERATOR);
  const visit = await Visit.start(guarded, { width: 320 });
  await visit.go();
  await visit.page.getByLabel("Token").fill(OPERATOR);
  await visit.page.getByRole("button", { name: "Sign in" }).click();
  await visit.live();
  for (const view of ["Endpoints", "Subscriptions", "Rates", "Events"]) {
    await visit.page.getByRole("link", { name: view, exact: true }).click();
    await visit.page.getByRole("heading", { name: view, level: 1 }).waitFor();
    expect(await excessWidth(visit)).toBeLessThanOrEqual(0);
  }
  await guarded.stop("SIGKILL");
  await visit.page.getByRole("button", { name: "Now" }).waitFor();
  expect(await excessWidth(visit)).toBeLessThanOrEqual(0);
  await visit.end();
  await guarded.dispose();
});

test("the sign-in is as clear", async () => {
  const guarded = await Service.start(OPERATOR);
  for (const colorScheme of ["light", "dark"] as const) {
    const visit = await Visit.start(guarded, { colorScheme, width: 360 });
    await visit.go();
    await visit.page.getByRole("button", { name: "Sign in" }).click();
    await visit.page.getByRole("alert").filter({ hasText: "Enter a token" }).waitFor();
    expect(await violations(visit)).toEqual([]);
    await visit.end();
  }
  await guarded.dispose();
});
