// Handles HeyGen's videos as they are done, and comes back whatever happens. In this directory:
//   npm install
//   node worker.js
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const address = process.env.HOOKSTREAM_ADDRESS ?? "127.0.0.1:50051";
const name = "videos";

const options = { includeDirs: ["../../proto"], keepCase: true, longs: String, defaults: true, oneofs: true };
const definition = protoLoader.loadSync("hookstream/v1/hookstream_service.proto", options);
const { HookstreamService } = grpc.loadPackageDefinition(definition).hookstream.v1;
const keepalive = { "grpc.keepalive_time_ms": 30_000 }; // A connection can die without a word.
const hooks = new HookstreamService(address, grpc.credentials.createInsecure(), keepalive);
const call = (method, request) => promisify(hooks[method].bind(hooks))(request);

// What your backend does. An event can come twice, if rarely: `event.id` says that it is the same.
async function handle(event) {
  switch (event.payload) {
    case "avatar_video_success":
      return console.log("ready", event.entity_id, event.avatar_video_success.url);
    case "avatar_video_fail":
      return console.log("failed", event.entity_id, event.avatar_video_fail.msg);
  }
}

async function createSubscription() {
  const create = { subscription: { name, filter: { event_types: ["avatar_video.*"] } }, position: "POSITION_EARLIEST" };
  await call("ManageSubscription", { create }).catch((error) => {
    if (error.code !== grpc.status.ALREADY_EXISTS) throw error;
  });
}

async function settle(event, ackId) {
  let outcome = "done";
  await handle(event).catch((error) => {
    console.error(`${event.id} has to come again:`, error);
    outcome = "retry";
  });
  await call("AcknowledgeEvents", { subscription: name, ack_ids: [ackId], [outcome]: {} });
}

for (let delay = 1000, frames; ; delay = Math.min(delay * 2, 30_000)) {
  try {
    await createSubscription();
    frames = hooks.SubscribeEvents({ subscription: name });
    for await (const { frame, event, ack_id } of frames) {
      delay = 1000;
      if (frame === "event") await settle(event, ack_id);
    }
  } catch (error) {
    frames?.cancel(); // Leaving the loop does not; the stream would go on holding events.
    console.error("reconnecting:", error.message);
  }
  await sleep(Math.random() * delay);
}
