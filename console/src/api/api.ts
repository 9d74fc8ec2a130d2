// The calls the console makes, over gRPC-Web to where the page came from. Owns the transport, deadlines and credentials of
// calls; refuses to know what is done with the answers.
import { create } from "@bufbuild/protobuf";
import type { Duration } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import type { Endpoint } from "../generated/hookstream/v1/endpoint_pb";
import type { Event } from "../generated/hookstream/v1/event_pb";
import { EventFilterSchema, type EventFilter } from "../generated/hookstream/v1/filter_pb";
import {
  HookstreamService,
  Position,
  type EventTypeDescription,
  type ListEventsResponse,
  type SubscribeEventsResponse,
} from "../generated/hookstream/v1/hookstream_service_pb";
import type { Subscription } from "../generated/hookstream/v1/subscription_pb";
import { explain } from "./failure";
import { bearer, type Session } from "./session.svelte";

/** How long a call that reads or changes something may take. */
const CALL_MILLISECONDS_MAX = 30_000;
/** How often a silent stream says that it is alive. */
export const HEARTBEAT_SECONDS = 5;

/** A filter as the page has it. */
export type Filter = Omit<EventFilter, "$typeName" | "$unknown">;

export interface Page<Row> {
  rows: Row[];
  nextPageToken: string;
}

/** What `replay` and `discard` did. */
export interface Moved {
  moved: bigint;
  remaining: bigint;
}

export type Api = ReturnType<typeof createApi>;

export function createApi(session: Session, baseUrl: string) {
  const transport = createGrpcWebTransport({ baseUrl, interceptors: [credentials(session)] });
  const service = createClient(HookstreamService, transport);
  const options = (signal: AbortSignal) => ({ signal, timeoutMs: CALL_MILLISECONDS_MAX });

  return {
    /** Asks whether a token, or none, is accepted. Throws only when the service cannot be asked. */
    async accepts(token: string | undefined): Promise<boolean> {
      const headers: HeadersInit = token === undefined ? {} : { authorization: bearer(token) };
      try {
        await service.listEventTypes({}, { headers, timeoutMs: CALL_MILLISECONDS_MAX });
        return true;
      } catch (thrown) {
        const { code } = explain(thrown);
        if (code === Code.Unauthenticated) {
          return false;
        }
        if (code === Code.PermissionDenied) {
          // It may do something else.
          return true;
        }
        throw thrown;
      }
    },

    /** Follows events after a cursor, or from now on. */
    followEvents(
      filter: Filter,
      cursor: string | undefined,
      signal: AbortSignal,
    ): AsyncIterable<SubscribeEventsResponse> {
      const start =
        cursor === undefined
          ? { case: "position" as const, value: Position.NEW }
          : { case: "afterCursor" as const, value: cursor };
      return service.subscribeEvents(
        {
          filter: message(filter),
          start,
          heartbeatInterval: seconds(HEARTBEAT_SECONDS),
          continueAfterGap: true,
        },
        { signal },
      );
    },

    async listEvents(
      filter: Filter,
      pageSize: number,
      pageToken: string,
      signal: AbortSignal,
    ): Promise<Page<Event>> {
      const request = { filter: message(filter), pageSize, pageToken };
      const { events, nextPageToken } = await service.listEvents(request, options(signal));
      return { rows: events, nextPageToken };
    },

    async event(id: string, signal: AbortSignal): Promise<Event | undefined> {
      return (await service.getEvent({ id }, options(signal))).event;
    },

    async eventTypes(signal: AbortSignal): Promise<EventTypeDescription[]> {
      return (await service.listEventTypes({}, options(signal))).eventTypes;
    },

    async listEndpoints(pageSize: number, pageToken: string, signal: AbortSignal): Promise<Page<Endpoint>> {
      const operation = { case: "list" as const, value: { pageSize, pageToken } };
      const { result } = await service.manageEndpoint({ operation }, options(signal));
      return result.case === "list"
        ? { rows: result.value.endpoints, nextPageToken: result.value.nextPageToken }
        : unexpected();
    },

    async listSubscriptions(
      pageSize: number,
      pageToken: string,
      signal: AbortSignal,
    ): Promise<Page<Subscription>> {
      const operation = { case: "list" as const, value: { pageSize, pageToken } };
      const { result } = await service.manageSubscription({ operation }, options(signal));
      return result.case === "list"
        ? { rows: result.value.subscriptions, nextPageToken: result.value.nextPageToken }
        : unexpected();
    },

    async subscription(name: string, signal: AbortSignal): Promise<Subscription | undefined> {
      const operation = { case: "get" as const, value: { name } };
      const { result } = await service.manageSubscription({ operation }, options(signal));
      return result.case === "get" ? result.value.subscription : unexpected();
    },

    listDeadLetters(
      subscription: string,
      pageSize: number,
      pageToken: string,
      signal: AbortSignal,
    ): Promise<ListEventsResponse> {
      return service.listEvents({ deadLettersOf: subscription, pageSize, pageToken }, options(signal));
    },

    /** Hands dead letters out again: those named, or all if none is. */
    async replay(name: string, eventIds: string[], signal: AbortSignal): Promise<Moved> {
      const operation = { case: "replayDeadLetters" as const, value: { name, eventIds } };
      const { result } = await service.manageSubscription({ operation }, options(signal));
      return result.case === "replayDeadLetters"
        ? { moved: result.value.replayed, remaining: result.value.remaining }
        : unexpected();
    },

    /** Forgets dead letters: those named, or all if none is. */
    async discard(name: string, eventIds: string[], signal: AbortSignal): Promise<Moved> {
      const operation = { case: "discardDeadLetters" as const, value: { name, eventIds } };
      const { result } = await service.manageSubscription({ operation }, options(signal));
      return result.case === "discardDeadLetters"
        ? { moved: result.value.discarded, remaining: result.value.remaining }
        : unexpected();
    },

    /** The service's metrics as OpenMetrics text. */
    async metrics(signal: AbortSignal): Promise<string> {
      const presented = session.authorization;
      const response = await fetch(`${baseUrl}/metrics`, {
        headers: presented === undefined ? {} : { authorization: presented },
        cache: "no-store",
        signal: AbortSignal.any([signal, AbortSignal.timeout(CALL_MILLISECONDS_MAX)]),
      });
      if (response.status === 401) {
        session.refuse(presented);
        throw new ConnectError("the service asks for a token", Code.Unauthenticated);
      }
      if (response.status === 403) {
        throw new ConnectError("the scope metrics:read is missing", Code.PermissionDenied);
      }
      if (!response.ok) {
        throw new ConnectError(`the metrics were answered with ${response.status}`, Code.Unavailable);
      }
      return response.text();
    },
  };
}

/** Presents the session's token, and tells the session when it is refused: at the start of a call or while it streams. */
function credentials(session: Session): Interceptor {
  return (next) => async (request) => {
    const ours = !request.header.has("authorization");
    const presented = session.authorization;
    if (ours && presented !== undefined) {
      request.header.set("authorization", presented);
    }
    const notice = (thrown: unknown): never => {
      const { code } = explain(thrown);
      if (ours && code === Code.Unauthenticated) {
        session.refuse(presented);
      }
      throw thrown;
    };
    const response = await next(request).catch(notice);
    return response.stream ? { ...response, message: watched(response.message, notice) } : response;
  };
}

async function* watched<T>(
  messages: AsyncIterable<T>,
  onError: (thrown: unknown) => never,
): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (thrown) {
    onError(thrown);
  }
}

function message(filter: Filter): EventFilter {
  return create(EventFilterSchema, filter);
}

function seconds(count: number): Pick<Duration, "seconds" | "nanos"> {
  return { seconds: BigInt(count), nanos: 0 };
}

function unexpected(): never {
  throw new ConnectError("the service answered something else than was asked", Code.Internal);
}
