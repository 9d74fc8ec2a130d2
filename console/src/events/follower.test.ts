// Claims of the stream that never ends by itself, against a scripted service and a clock that is moved by hand.
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { EventSchema } from "../generated/hookstream/v1/event_pb";
import {
  SubscribeEventsResponseSchema,
  type SubscribeEventsResponse,
} from "../generated/hookstream/v1/hookstream_service_pb";
import { backoffMilliseconds, Follower, type Clock } from "./follower";

const SILENCE = 12_000;

/** What the service does on one connection. */
type Step = SubscribeEventsResponse["frame"] | { throws: Code } | "hangs";

class ManualClock implements Clock {
  time = 0;
  #timers: { at: number; callback: () => void }[] = [];

  now(): number {
    return this.time;
  }

  after(milliseconds: number, callback: () => void): () => void {
    const timer = { at: this.time + milliseconds, callback };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  async advance(milliseconds: number): Promise<void> {
    const end = this.time + milliseconds;
    await settled();
    for (;;) {
      const next = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) {
        break;
      }
      this.time = next.at;
      this.#timers = this.#timers.filter((other) => other !== next);
      next.callback();
      await settled();
    }
    this.time = end;
  }
}

/** Lets everything that waits for nothing but its turn have it. */
async function settled(): Promise<void> {
  await new Promise((done) => setImmediate(done));
}

function scripted(...connections: Step[][]) {
  const clock = new ManualClock();
  const opened: (string | undefined)[] = [];
  const told: string[] = [];
  const follower = new Follower(
    {
      async *open(cursor, signal) {
        opened.push(cursor);
        for (const step of connections[opened.length - 1] ?? ["hangs"]) {
          if (step === "hangs") {
            await new Promise((_, reject) => {
              signal.addEventListener("abort", () => reject(new ConnectError("aborted", Code.Canceled)));
            });
          } else if ("throws" in step) {
            throw new ConnectError("scripted", step.throws);
          } else {
            yield create(SubscribeEventsResponseSchema, { frame: step as never });
          }
        }
      },
      clock,
      random: () => 1,
      silenceMilliseconds: SILENCE,
    },
    {
      onEvent: (event) => told.push(event.id),
      onState: (state) => told.push(state.kind),
      onPlace: () => told.push("place"),
      onGap: () => told.push("gap"),
      onLost: () => told.push("lost"),
    },
  );
  void follower.run();
  return { follower, clock, opened, told };
}

const event = (id: string): Step => ({
  case: "event",
  value: create(EventSchema, { id, cursor: `after ${id}` }),
});
const frame = (name: string, fields: object): Step => ({ case: name, value: fields }) as never;
const caughtUp = (cursor: string) => frame("caughtUp", { cursor });
const heartbeat = (cursor: string) => frame("heartbeat", { cursor });

test("a stream that breaks is opened again after the last event that came", async () => {
  const { clock, opened, told } = scripted(
    [caughtUp("start"), event("a"), event("b"), { throws: Code.Unavailable }],
    [event("c"), caughtUp("after c"), "hangs"],
  );
  await clock.advance(1000);
  expect(opened).toEqual([undefined, "after b"]);
  expect(told).toEqual([
    "connecting",
    "live",
    "place",
    "a",
    "b",
    "waiting",
    "connecting",
    "catching_up",
    "c",
    "live",
  ]);
});

test("a heartbeat moves the cursor past what the filter skipped", async () => {
  const { clock, opened } = scripted([caughtUp("start"), heartbeat("further"), { throws: Code.Unavailable }]);
  await clock.advance(1000);
  expect(opened).toEqual([undefined, "further"]);
});

test("a stream that ends in order is opened again too", async () => {
  const { clock, opened } = scripted([caughtUp("start")]);
  await clock.advance(1000);
  expect(opened).toEqual([undefined, "start"]);
});

test("a draining service is left alone for as long as it asks", async () => {
  const draining = frame("draining", { cursor: "end", reconnectAfter: { seconds: 3n, nanos: 500_000_000 } });
  const { clock, opened } = scripted([caughtUp("start"), draining, { throws: Code.Unavailable }]);
  await clock.advance(3400);
  expect(opened).toEqual([undefined]);
  await clock.advance(200);
  expect(opened).toEqual([undefined, "end"]);
});

test("a stream that is silent beyond its heartbeats is dead", async () => {
  const { clock, opened, told } = scripted([caughtUp("start"), "hangs"], [heartbeat("start"), "hangs"]);
  await clock.advance(SILENCE - 1);
  expect(opened).toHaveLength(1);
  await clock.advance(1000);
  expect(opened).toEqual([undefined, "start"]);
  expect(told).toContain("waiting");
});

test("a connection that never answers is given up", async () => {
  const { clock, opened } = scripted(["hangs"], ["hangs"]);
  await clock.advance(SILENCE + 1000);
  expect(opened).toEqual([undefined, undefined]);
});

test("attempts come ever more seldom, and often again after one that succeeded", async () => {
  const down: Step[] = [{ throws: Code.Unavailable }];
  const { clock, opened } = scripted(down, down, down, down, [caughtUp("x"), { throws: Code.Unavailable }]);
  await clock.advance(500 + 1000 + 2000 + 4000);
  expect(opened).toHaveLength(5);
  await clock.advance(500);
  expect(opened).toHaveLength(6);
  expect(backoffMilliseconds(30, 0)).toBe(5000);
  expect(backoffMilliseconds(30, 0.999)).toBeLessThan(10_000);
});

test("a wait can be cut short", async () => {
  const { follower, clock, opened } = scripted([{ throws: Code.Unavailable }]);
  await clock.advance(1);
  follower.retryNow();
  await clock.advance(1);
  expect(opened).toHaveLength(2);
});

test.each([Code.OutOfRange, Code.FailedPrecondition])(
  "a cursor that is of no use (%i) is forgotten",
  async (code) => {
    const { clock, opened, told } = scripted(
      [caughtUp("old"), { throws: Code.Unavailable }],
      [{ throws: code }],
      [caughtUp("new"), "hangs"],
    );
    await clock.advance(2000);
    expect(opened).toEqual([undefined, "old", undefined]);
    expect(told.filter((what) => what === "lost" || what === "place")).toEqual(["place", "lost", "place"]);
  },
);

test("a gap is told, and the stream goes on behind it", async () => {
  const gap = frame("gap", { afterCursor: "a", earliestCursor: "b" });
  const { clock, opened, told } = scripted([caughtUp("a"), gap, { throws: Code.Unavailable }]);
  await clock.advance(1000);
  expect(told).toContain("gap");
  expect(opened).toEqual([undefined, "b"]);
});

test.each([Code.Unauthenticated, Code.PermissionDenied, Code.InvalidArgument])(
  "what trying again would not cure (%i) stops it",
  async (code) => {
    const { clock, opened, told } = scripted([{ throws: code }]);
    await clock.advance(60_000);
    expect(opened).toHaveLength(1);
    expect(told).toEqual(["connecting", "stopped"]);
  },
);

test("asleep it holds no connection, and awake it goes on where it was", async () => {
  const { follower, clock, opened, told } = scripted(
    [caughtUp("start"), event("a"), "hangs"],
    [event("b"), "hangs"],
  );
  await clock.advance(1);
  follower.sleep();
  await clock.advance(60_000);
  expect(opened).toHaveLength(1);
  expect(told.at(-1)).toBe("asleep");
  follower.wake();
  await clock.advance(1);
  expect(opened).toEqual([undefined, "after a"]);
  expect(told.slice(-3)).toEqual(["connecting", "catching_up", "b"]);
});

test("it can fall asleep while it waits for another attempt", async () => {
  const { follower, clock, opened } = scripted([{ throws: Code.Unavailable }]);
  await clock.advance(1);
  follower.sleep();
  await clock.advance(60_000);
  expect(opened).toHaveLength(1);
  follower.wake();
  await clock.advance(1);
  expect(opened).toHaveLength(2);
});

test("after stop nothing is opened and nothing is told", async () => {
  const { follower, clock, opened, told } = scripted([caughtUp("start"), "hangs"]);
  await clock.advance(1);
  follower.stop();
  await clock.advance(60_000);
  expect(opened).toHaveLength(1);
  expect(told).toEqual(["connecting", "live", "place"]);
});

test("a frame of a later version is ignored", async () => {
  const unknown = { case: undefined } as never;
  const { clock, opened } = scripted([caughtUp("start"), unknown, { throws: Code.Unavailable }]);
  await clock.advance(1000);
  expect(opened).toEqual([undefined, "start"]);
});
