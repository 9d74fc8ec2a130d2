// A client with Connect-ES, over gRPC, gRPC-Web or Connect. What it does is said in `program.py`.
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { type Event } from "./gen/hookstream/v1/event_pb.js";
import {
  HookstreamService,
  Order,
  type AcknowledgeEventsRequestSchema,
  type SubscribeEventsRequestSchema,
} from "./gen/hookstream/v1/hookstream_service_pb.js";
import packages from "./package.json" with { type: "json" };

const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 5000;

const protocol = process.argv[2];
const baseUrl = `http://${process.env.HOOKSTREAM_ADDRESS}`;
const transports = {
  grpc: () => createGrpcTransport({ baseUrl }),
  "grpc-web": () => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }),
  connect: () => createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false }),
};
const transport = transports[protocol as keyof typeof transports]();
const hooks = createClient(HookstreamService, transport);

const say = (what: object) => console.log(JSON.stringify(what));
const lowerCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

function eventOf(event: Event) {
  let text = "";
  switch (event.payload.case) {
    case "avatarVideoSuccess":
      text = event.payload.value.url;
      break;
    case "avatarVideoFail":
      text = event.payload.value.msg;
      break;
  }
  return {
    id: event.id,
    cursor: event.cursor,
    // A bigint, because a JavaScript number does not hold it.
    sequence: event.sequence.toString(),
    type: event.type,
    type_name: event.typeName,
    entity_id: event.entityId,
    payload: lowerCase(event.payload.case ?? ""),
    text,
    extra: event.eventData?.extra ?? "",
    raw_body: new TextDecoder().decode(event.rawBody),
  };
}

function errorOf(error: ConnectError) {
  const [info] = error.findDetails(ErrorInfoSchema);
  const [badRequest] = error.findDetails(BadRequestSchema);
  return {
    code: lowerCase(Code[error.code]).slice(1).toUpperCase(),
    reason: info?.reason ?? "",
    metadata: info?.metadata ?? {},
    fields: badRequest?.fieldViolations.map((violation) => violation.field) ?? [],
  };
}

// Whether to come back. The service says so itself; an error without its ErrorInfo comes from the connection, and has
// another code with each transport and each way to lose it.
function isPassing(error: unknown): error is ConnectError {
  return (
    error instanceof ConnectError &&
    (error.findDetails(RetryInfoSchema).length > 0 || error.findDetails(ErrorInfoSchema).length === 0)
  );
}

const orders = {
  async create_endpoint({ name }: { name: string }) {
    const answer = await hooks.manageEndpoint({ operation: { case: "create", value: { name } } });
    if (answer.result.case !== "create") {
      throw new Error(`the answer is ${answer.result.case}`);
    }
    return { secret: answer.result.value.secret };
  },

  // Follows a filter up to the event about this entity, over lost connections and restarts of the service.
  async follow(order: { endpoint: string; event_types: string[]; until_entity: string; after_cursor?: string }) {
    let cursor = order.after_cursor;
    let delay = RETRY_MS_MIN;
    for (;;) {
      const request: MessageInitShape<typeof SubscribeEventsRequestSchema> = {
        filter: { endpoints: [order.endpoint], eventTypes: order.event_types },
        start: cursor === undefined ? undefined : { case: "afterCursor", value: cursor },
      };
      const ended = new AbortController();
      try {
        for await (const { frame } of hooks.subscribeEvents(request, { signal: ended.signal })) {
          delay = RETRY_MS_MIN;
          switch (frame.case) {
            case "event":
              cursor = frame.value.cursor;
              say({ event: eventOf(frame.value) });
              if (frame.value.entityId === order.until_entity) {
                return { cursor };
              }
              break;
            case "caughtUp":
            case "heartbeat":
              cursor = frame.value.cursor;
              say({ [lowerCase(frame.case)]: { cursor } });
              break;
            case "draining":
              cursor = frame.value.cursor;
              delay = frame.value.reconnectAfter ? durationMs(frame.value.reconnectAfter) : delay;
              say({ draining: { cursor } });
              break;
          }
        }
      } catch (error) {
        if (!isPassing(error)) {
          throw error;
        }
        say({ reconnecting: errorOf(error) });
      } finally {
        ended.abort();
      }
      await sleep(delay);
      delay = Math.min(delay * 2, RETRY_MS_MAX);
    }
  },

  async list(order: { endpoint: string; event_types: string[]; page_size: number }) {
    const filter = { endpoints: [order.endpoint], eventTypes: order.event_types };
    let pageToken = "";
    do {
      const answer = await hooks.listEvents({
        filter,
        order: Order.OLDEST_FIRST,
        pageSize: order.page_size,
        pageToken,
      });
      say({ page: answer.events.map((event) => event.entityId) });
      pageToken = answer.nextPageToken;
    } while (pageToken !== "");
    return {};
  },

  async get({ id }: { id: string }) {
    const { event } = await hooks.getEvent({ id });
    return { event: event && eventOf(event) };
  },

  async await_event(order: { endpoint: string; entity_id: string; timeout_ms: number; after_cursor?: string }) {
    const { event } = await hooks.awaitEvent({
      filter: { endpoints: [order.endpoint], entityIds: [order.entity_id] },
      start: order.after_cursor === undefined ? undefined : { case: "afterCursor", value: order.after_cursor },
      timeout: durationFromMs(order.timeout_ms),
    });
    return { event: event && eventOf(event) };
  },

  async create_subscription(order: { name: string; endpoint: string; retry_delay_ms: number }) {
    const subscription = {
      name: order.name,
      filter: { endpoints: [order.endpoint] },
      minRetryDelay: durationFromMs(order.retry_delay_ms),
    };
    await hooks.manageSubscription({ operation: { case: "create", value: { subscription } } });
    return {};
  },

  // Works a subscription for so many attempts.
  async work({ subscription, count }: { subscription: string; count: number }) {
    const ended = new AbortController();
    try {
      for await (const { frame, ackId, deliveryAttempt } of hooks.subscribeEvents(
        { subscription },
        { signal: ended.signal },
      )) {
        if (frame.case !== "event") {
          continue;
        }
        const payload = frame.value.payload.case;
        let outcome: MessageInitShape<typeof AcknowledgeEventsRequestSchema>["outcome"] = { case: "done", value: {} };
        if (payload === "avatarVideoFail") {
          outcome = { case: "reject", value: {} };
        } else if (payload !== "avatarVideoSuccess" && deliveryAttempt === 1) {
          outcome = { case: "retry", value: {} };
        }
        const answer = await hooks.acknowledgeEvents({ subscription, ackIds: [ackId], outcome });
        const attempt = { entity_id: frame.value.entityId, attempt: deliveryAttempt, outcome: outcome.case };
        say({ attempt: { ...attempt, result: answer.results[0] } });
        count -= 1;
        if (count === 0) {
          break;
        }
      }
    } finally {
      ended.abort();
    }
    return {};
  },

  async dead_letters({ subscription }: { subscription: string }) {
    const { events, deadLetters } = await hooks.listEvents({ deadLettersOf: subscription });
    const putAside = events.map((event, at) => {
      const { attempts, reason } = deadLetters[at];
      return { entity_id: event.entityId, attempts, reason };
    });
    return { dead_letters: putAside };
  },
};

say({ library: `@connectrpc/connect-node ${packages.dependencies["@connectrpc/connect-node"]} (${protocol})` });
for await (const line of createInterface({ input: process.stdin })) {
  const { do: order, ...request } = JSON.parse(line);
  try {
    say({ done: await orders[order as keyof typeof orders](request) });
  } catch (error) {
    if (!(error instanceof ConnectError)) {
      throw error;
    }
    say({ error: errorOf(error) });
  }
}
