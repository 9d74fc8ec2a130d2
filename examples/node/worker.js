// Handles HeyGen's videos as they are done, and comes back whatever happens. In this directory:
//   npm install
//   node worker.js
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const address = process.env.HOOKSTREAM_ADDRESS ?? "127.0.0.1:50051";
const subscription = "videos";

const definition = protoLoader.loadSync("hookstream/v1/hookstream_service.proto", {
  includeDirs: ["../../proto"], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true,
});
const { HookstreamService } = grpc.loadPackageDefinition(definition).hookstream.v1;
const hooks = new HookstreamService(address, grpc.credentials.createInsecure());
const manageSubscription = promisify(hooks.ManageSubscription.bind(hooks));
const acknowledgeEvents = promisify(hooks.AcknowledgeEvents.bind(hooks));

// What your backend does. An event can come twice, if rarely: `event.id` says that it is the same.
async function handle(event) {
  switch (event.payload) {
    case "avatar_video_success":
      return console.log("ready", event.entity_id, event.avatar_video_success.url);
    case "avatar_video_fail":
      return console.log("failed", event.entity_id, event.avatar_video_fail.msg);
  }
}

async function settle({ event, ack_id }) {
  const outcome = await handle(event).then(() => "done", (error) => {
    console.error(`${event.id} has to come again:`, error);
    return "retry";
  });
  await acknowledgeEvents({ subscription, ack_ids: [ack_id], [outcome]: {} });
}

const create = { subscription: { name: subscription, filter: { event_types: ["avatar_video.*"] } }, position: "POSITION_EARLIEST" };
for (let delay = 1000; ; delay = Math.min(delay * 2, 30_000)) {
  try {
    await manageSubscription({ create }).catch((error) => {
      if (error.code !== grpc.status.ALREADY_EXISTS) throw error;
    });
    for await (const frame of hooks.SubscribeEvents({ subscription })) {
      delay = 1000;
      if (frame.frame === "event") await settle(frame);
    }
  } catch (error) {
    console.error("reconnecting:", error.details ?? error);
  }
  await sleep(Math.random() * delay);
}
