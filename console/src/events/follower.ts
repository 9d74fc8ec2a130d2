// One stream of events that never ends by itself: it reconnects with its cursor, waits between attempts, and takes a stream
// that has gone silent for dead. Owns that and the state it is in; refuses to know transport, views and what events mean.
import { Code } from "@connectrpc/connect";
import type { Duration } from "@bufbuild/protobuf/wkt";
import { explain, type Failure } from "../api/failure";
import type { Event } from "../generated/hookstream/v1/event_pb";
import type { SubscribeEventsResponse } from "../generated/hookstream/v1/hookstream_service_pb";

/** Where the stream stands. */
export type FollowState =
  | { kind: "connecting" }
  /** Connected; events stored meanwhile are being read. */
  | { kind: "catching_up" }
  /** What is stored is shown as it is stored. */
  | { kind: "live" }
  /** Not connected; another attempt comes at `until`. */
  | { kind: "waiting"; until: number; why: string }
  /** Not connected, because nobody looks. */
  | { kind: "asleep" }
  /** Not connected, and trying again would not help. */
  | { kind: "stopped"; failure: Failure };

/** Time, as far as a stream needs it. */
export interface Clock {
  now(): number;
  /** Calls back after a time, unless what it returns is called first. */
  after(milliseconds: number, callback: () => void): () => void;
}

/** Who is told what. */
export interface FollowerListener {
  onEvent(event: Event): void;
  onState(state: FollowState): void;
  /** The stream has a place in the log for the first time, or a new one: what was stored before is not coming by it. */
  onPlace(): void;
  /** Retention removed events before they could be sent. */
  onGap(): void;
  /** The cursor is of no use any more (another log, or retention overtook it): everything starts anew. */
  onLost(failure: Failure): void;
}

export interface FollowerOptions {
  open(cursor: string | undefined, signal: AbortSignal): AsyncIterable<SubscribeEventsResponse>;
  clock: Clock;
  /** A number from 0 up to 1. */
  random(): number;
  /** A stream silent for longer than this is dead. */
  silenceMilliseconds: number;
}

const FIRST_DELAY_MILLISECONDS = 500;
const LONGEST_DELAY_MILLISECONDS = 10_000;

/** How long to wait before an attempt: doubling, bounded, and spread so that pages do not come all at once. */
export function backoffMilliseconds(failures: number, random: number): number {
  const ceiling = Math.min(
    LONGEST_DELAY_MILLISECONDS,
    FIRST_DELAY_MILLISECONDS * 2 ** Math.min(failures, 16),
  );
  return ceiling * (0.5 + random / 2);
}

export class Follower {
  #cursor: string | undefined;
  #failures = 0;
  #state: FollowState["kind"] | undefined;
  #wake: (() => void) | undefined;
  #asleep = false;
  #connection = new AbortController();
  readonly #stopped = new AbortController();

  constructor(
    private readonly options: FollowerOptions,
    private readonly listener: FollowerListener,
  ) {}

  /** Follows until `stop`. */
  async run(): Promise<void> {
    while (!this.#stopped.signal.aborted) {
      if (this.#asleep) {
        this.#tell({ kind: "asleep" });
        await this.#pause();
        continue;
      }
      this.#tell({ kind: "connecting" });
      const end = await this.#attempt();
      if (this.#stopped.signal.aborted) {
        return;
      }
      if (this.#asleep) {
        continue;
      }
      if (end.kind === "stopped") {
        this.#tell(end);
        return;
      }
      this.#tell({ kind: "waiting", until: this.options.clock.now() + end.delay, why: end.why });
      await this.#pause(end.delay);
    }
  }

  /** Ends the stream; nothing is told any more. */
  stop(): void {
    this.#stopped.abort();
    this.#wake?.();
  }

  /** Lets go of the connection until `wake`, and goes on then with what came meanwhile. */
  sleep(): void {
    this.#asleep = true;
    this.#connection.abort();
    this.#wake?.();
  }

  wake(): void {
    this.#asleep = false;
    this.#wake?.();
  }

  /** Cuts a wait short. */
  retryNow(): void {
    this.#wake?.();
  }

  async #attempt(): Promise<AttemptEnd> {
    const connection = new AbortController();
    this.#connection = connection;
    const stop = () => connection.abort();
    this.#stopped.signal.addEventListener("abort", stop);
    const watchdog = new Watchdog(this.options.clock, this.options.silenceMilliseconds, stop);
    let draining: Draining | undefined;
    try {
      for await (const { frame } of this.options.open(this.#cursor, connection.signal)) {
        if (this.#stopped.signal.aborted) {
          break;
        }
        watchdog.feed();
        this.#failures = 0;
        if (frame.case === "draining") {
          draining = { delay: milliseconds(frame.value.reconnectAfter) };
        }
        this.#take(frame);
      }
      return this.#again(draining, "The stream ended.");
    } catch (thrown) {
      if (watchdog.bitten) {
        return this.#again(draining, "The stream went silent.");
      }
      return this.#afterFailure(explain(thrown), draining);
    } finally {
      watchdog.end();
      this.#stopped.signal.removeEventListener("abort", stop);
      connection.abort();
    }
  }

  #take(frame: SubscribeEventsResponse["frame"]): void {
    const placed = this.#cursor !== undefined;
    switch (frame.case) {
      case "event":
        this.#cursor = frame.value.cursor;
        if (this.#state !== "live") {
          this.#tell({ kind: "catching_up" });
        }
        this.listener.onEvent(frame.value);
        break;
      case "caughtUp":
        this.#cursor = frame.value.cursor;
        this.#tell({ kind: "live" });
        break;
      case "heartbeat":
      case "fellBehind":
      case "draining":
        this.#cursor = frame.value.cursor;
        break;
      case "gap":
        this.#cursor = frame.value.earliestCursor;
        this.listener.onGap();
        break;
      default:
        // A frame of a later version.
        return;
    }
    if (!placed) {
      this.listener.onPlace();
    }
  }

  #afterFailure(failure: Failure, draining: Draining | undefined): AttemptEnd {
    switch (failure.code) {
      case Code.OutOfRange:
      case Code.FailedPrecondition:
        if (this.#cursor !== undefined) {
          this.#cursor = undefined;
          this.listener.onLost(failure);
        }
        return this.#again(draining, failure.text);
      case Code.InvalidArgument:
      case Code.NotFound:
      case Code.PermissionDenied:
      case Code.Unauthenticated:
      case Code.Unimplemented:
        return { kind: "stopped", failure };
      default:
        return this.#again(draining, failure.text);
    }
  }

  #again(draining: Draining | undefined, why: string): AttemptEnd {
    if (draining !== undefined) {
      return { kind: "again", delay: draining.delay, why: "The service is restarting." };
    }
    const delay = backoffMilliseconds(this.#failures, this.options.random());
    this.#failures += 1;
    return { kind: "again", delay, why };
  }

  #tell(state: FollowState): void {
    const news = state.kind !== this.#state;
    this.#state = state.kind;
    if (news && !this.#stopped.signal.aborted) {
      this.listener.onState(state);
    }
  }

  /** Waits so long, or until it is woken. */
  #pause(delay?: number): Promise<void> {
    return new Promise((resolve) => {
      const cancel = delay === undefined ? undefined : this.options.clock.after(delay, () => this.#wake?.());
      this.#wake = () => {
        cancel?.();
        this.#wake = undefined;
        resolve();
      };
    });
  }
}

interface Draining {
  delay: number;
}

type AttemptEnd = { kind: "again"; delay: number; why: string } | { kind: "stopped"; failure: Failure };

/** Bites when it was not fed for too long. */
class Watchdog {
  bitten = false;
  #fedAt: number;
  #cancel: () => void = () => {};

  constructor(
    private readonly clock: Clock,
    private readonly patience: number,
    private readonly bite: () => void,
  ) {
    this.#fedAt = clock.now();
    this.#watch(patience);
  }

  feed(): void {
    this.#fedAt = this.clock.now();
  }

  end(): void {
    this.#cancel();
  }

  // One timer for many frames: it looks whether it was fed meanwhile, and goes on for what is left.
  #watch(wait: number): void {
    this.#cancel = this.clock.after(wait, () => {
      const left = this.#fedAt + this.patience - this.clock.now();
      if (left > 0) {
        this.#watch(left);
      } else {
        this.bitten = true;
        this.bite();
      }
    });
  }
}

function milliseconds(duration: Duration | undefined): number {
  return duration === undefined ? 0 : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

/** The browser's own clock. */
export const browserClock: Clock = {
  now: () => Date.now(),
  after(delay, callback) {
    const timer = setTimeout(callback, delay);
    return () => clearTimeout(timer);
  },
};
