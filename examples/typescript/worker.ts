// Handles HeyGen's videos as they are done, and comes back whatever happens. In this directory:
//   npm install
//   npx buf generate ../../proto
//   npx tsx worker.ts
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { type Event } from "./gen/hookstream/v1/event_pb.js";
import { HookstreamService, Position } from "./gen/hookstream/v1/hookstream_service_pb.js";

const baseUrl = `http://${process.env.HOOKSTREAM_ADDRESS ?? "127.0.0.1:50051"}`;
// With pings, because a connection can die without a word.
const hooks = createClient(HookstreamService, createGrpcTransport({ baseUrl, pingIntervalMs: 30_000 }));
const subscription = "videos";

// What your backend does. An event can come twice, if rarely: `event.id` says that it is the same.
async function handle(event: Event) {
  switch (event.payload.case) {
    case "avatarVideoSuccess":
      return console.log("ready", event.entityId, event.payload.value.url);
    case "avatarVideoFail":
      return console.log("failed", event.entityId, event.payload.value.msg);
  }
}

async function createSubscription() {
  const start = { case: "position", value: Position.EARLIEST } as const;
  const value = { subscription: { name: subscription, filter: { eventTypes: ["avatar_video.*"] } }, start };
  await hooks.manageSubscription({ operation: { case: "create", value } }).catch((error) => {
    if (ConnectError.from(error).code !== Code.AlreadyExists) throw error;
  });
}

async function settle(event: Event, ackId: string) {
  let outcome: "done" | "retry" = "done";
  try {
    await handle(event);
  } catch (error) {
    console.error(`${event.id} has to come again:`, error);
    outcome = "retry";
  }
  await hooks.acknowledgeEvents({ subscription, ackIds: [ackId], outcome: { case: outcome, value: {} } });
}

for (let delay = 1000; ; delay = Math.min(delay * 2, 30_000)) {
  const stream = new AbortController();
  try {
    await createSubscription();
    for await (const { frame, ackId } of hooks.subscribeEvents({ subscription }, { signal: stream.signal })) {
      delay = 1000;
      if (frame.case === "event") await settle(frame.value, ackId);
    }
  } catch (error) {
    console.error("reconnecting:", ConnectError.from(error).message);
    stream.abort(); // Leaving the loop does not; the stream would go on holding events.
  }
  await sleep(Math.random() * delay);
}
