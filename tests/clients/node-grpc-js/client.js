// A client with @grpc/grpc-js, without generated code. What it does is said in `program.py`.
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import packages from "./package.json" with { type: "json" };

const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 5000;

const definition = protoLoader.loadSync(
  ["hookstream/v1/hookstream_service.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"],
  // 64-bit numbers as strings, because a JavaScript number does not hold them. `oneofs` says which arm is set.
  { includeDirs: [process.env.HOOKSTREAM_PROTO], keepCase: true, longs: String, defaults: true, oneofs: true },
);
const { HookstreamService } = grpc.loadPackageDefinition(definition).hookstream.v1;
const hooks = new HookstreamService(process.env.HOOKSTREAM_ADDRESS, grpc.credentials.createInsecure());
const call = (method, request) => promisify(hooks[method].bind(hooks))(request);

const say = (what) => console.log(JSON.stringify(what));

function eventOf(event) {
  let text = "";
  switch (event.payload) {
    case "avatar_video_success":
      text = event.avatar_video_success.url;
      break;
    case "avatar_video_fail":
      text = event.avatar_video_fail.msg;
      break;
  }
  return {
    id: event.id,
    cursor: event.cursor,
    sequence: event.sequence,
    type: event.type,
    type_name: event.type_name,
    entity_id: event.entity_id,
    payload: event.payload ?? "",
    text,
    extra: event.event_data?.fields.extra?.stringValue ?? "",
    raw_body: event.raw_body.toString(),
  };
}

function errorOf(error) {
  const details = { reason: "", metadata: {}, fields: [] };
  const [status] = error.metadata.get("grpc-status-details-bin");
  for (const { type_url, value } of status ? definition["google.rpc.Status"].deserialize(status).details : []) {
    const detail = definition[type_url.split("/").pop()]?.deserialize(value);
    if (type_url.endsWith("/google.rpc.ErrorInfo")) {
      details.reason = detail.reason;
      details.metadata = detail.metadata;
    } else if (type_url.endsWith("/google.rpc.BadRequest")) {
      details.fields = detail.field_violations.map((violation) => violation.field);
    }
  }
  return { code: grpc.status[error.code], ...details };
}

const durationOf = (ms) => ({ seconds: Math.floor(ms / 1000), nanos: (ms % 1000) * 1e6 });

const orders = {
  async create_endpoint({ name }) {
    const answer = await call("ManageEndpoint", { create: { name } });
    return { secret: answer.create.secret };
  },

  // Follows a filter up to the event about this entity, over lost connections and restarts of the service.
  async follow({ endpoint, event_types, until_entity, after_cursor: cursor }) {
    let delay = RETRY_MS_MIN;
    for (;;) {
      const frames = hooks.SubscribeEvents({ filter: { endpoints: [endpoint], event_types }, after_cursor: cursor });
      try {
        for await (const frame of frames) {
          delay = RETRY_MS_MIN;
          switch (frame.frame) {
            case "event":
              cursor = frame.event.cursor;
              say({ event: eventOf(frame.event) });
              if (frame.event.entity_id === until_entity) {
                return { cursor };
              }
              break;
            case "caught_up":
            case "heartbeat":
              cursor = frame[frame.frame].cursor;
              say({ [frame.frame]: { cursor } });
              break;
            case "draining":
              cursor = frame.draining.cursor;
              delay = frame.draining.reconnect_after.seconds * 1000 + frame.draining.reconnect_after.nanos / 1e6;
              say({ draining: { cursor } });
              break;
          }
        }
      } catch (error) {
        if (error.code !== grpc.status.UNAVAILABLE) {
          throw error;
        }
        say({ reconnecting: errorOf(error) });
      } finally {
        frames.cancel();
      }
      await sleep(delay);
      delay = Math.min(delay * 2, RETRY_MS_MAX);
    }
  },

  async list({ endpoint, event_types, page_size }) {
    const request = { filter: { endpoints: [endpoint], event_types }, order: "ORDER_OLDEST_FIRST", page_size };
    do {
      const answer = await call("ListEvents", request);
      say({ page: answer.events.map((event) => event.entity_id) });
      request.page_token = answer.next_page_token;
    } while (request.page_token);
    return {};
  },

  async get({ id }) {
    return { event: eventOf((await call("GetEvent", { id })).event) };
  },

  async await_event({ endpoint, entity_id, timeout_ms, after_cursor }) {
    const filter = { endpoints: [endpoint], entity_ids: [entity_id] };
    const answer = await call("AwaitEvent", { filter, after_cursor, timeout: durationOf(timeout_ms) });
    return { event: eventOf(answer.event) };
  },

  async create_subscription({ name, endpoint, retry_delay_ms }) {
    const subscription = { name, filter: { endpoints: [endpoint] }, min_retry_delay: durationOf(retry_delay_ms) };
    await call("ManageSubscription", { create: { subscription } });
    return {};
  },

  // Works a subscription for so many attempts.
  async work({ subscription, count }) {
    const frames = hooks.SubscribeEvents({ subscription });
    try {
      for await (const { frame, event, ack_id, delivery_attempt: attempt } of frames) {
        if (frame !== "event") {
          continue;
        }
        let outcome = "done";
        if (event.payload === "avatar_video_fail") {
          outcome = "reject";
        } else if (event.payload !== "avatar_video_success" && attempt === 1) {
          outcome = "retry";
        }
        const answer = await call("AcknowledgeEvents", { subscription, ack_ids: [ack_id], [outcome]: {} });
        say({ attempt: { entity_id: event.entity_id, attempt, outcome, result: answer.results[0] } });
        count -= 1;
        if (count === 0) {
          return {};
        }
      }
    } finally {
      frames.cancel();
    }
  },

  async dead_letters({ subscription }) {
    const { events, dead_letters } = await call("ListEvents", { dead_letters_of: subscription });
    const put_aside = events.map((event, at) => {
      const { attempts, reason } = dead_letters[at];
      return { entity_id: event.entity_id, attempts, reason };
    });
    return { dead_letters: put_aside };
  },
};

say({ library: `@grpc/grpc-js ${packages.dependencies["@grpc/grpc-js"]}` });
for await (const line of createInterface({ input: process.stdin })) {
  const { do: order, ...request } = JSON.parse(line);
  try {
    say({ done: await orders[order](request) });
  } catch (error) {
    if (!(error.metadata instanceof grpc.Metadata)) {
      throw error;
    }
    say({ error: errorOf(error) });
  }
}
