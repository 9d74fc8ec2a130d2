// The events view's memory: what the stream brought, what was paged from history, and what waits while paused. Owns their
// order and bounds; refuses to know how they are drawn.
import { HEARTBEAT_SECONDS, type Api } from "../api/api";
import { explain, isCanceled, type Failure } from "../api/failure";
import { filterOf, type FilterText } from "./filter";
import { browserClock, Follower, type FollowState } from "./follower";
import { mergeNewestFirst, ROWS_MAX, rowOf, type EventRow } from "./rows";

/** Where the history below the list stands. */
export type History =
  /** Nothing was asked for, because the stream was refused. */
  | { kind: "none" }
  | { kind: "loading" }
  /** There is more to load, after this token. */
  | { kind: "more"; token: string }
  /** The oldest event that is kept is shown. */
  | { kind: "end" }
  /** As many are shown as are kept. */
  | { kind: "full" }
  | { kind: "failed"; token: string; failure: Failure };

const FIRST_PAGE = 200;
const NEXT_PAGE = 500;
/** How often what came is drawn: often enough to look live, seldom enough for thousands a second. */
const DRAW_MILLISECONDS = 100;

export interface StoreListener {
  /** So many events came and are shown. */
  onShown(count: number): void;
  /** A part of the history was loaded; so many events are shown now. */
  onLoaded(count: number): void;
}

export class EventStore {
  rows = $state.raw<readonly EventRow[]>([]);
  state = $state.raw<FollowState>({ kind: "connecting" });
  history = $state.raw<History>({ kind: "loading" });
  paused = $state(false);
  /** Events that came while paused. */
  waiting = $state(0);
  /** Something the reader should know, such as a gap; empty if nothing. */
  notice = $state("");

  #arrived: EventRow[] = [];
  #held: readonly EventRow[] = [];
  #draw: ReturnType<typeof setTimeout> | undefined;
  #follower: Follower | undefined;
  #filter: FilterText | undefined;
  #calls = new AbortController();

  constructor(
    private readonly api: Api,
    private readonly listener: StoreListener,
  ) {}

  /** Shows what matches, from scratch, unless that is shown already. */
  show(filter: FilterText): void {
    if (JSON.stringify(filter) === JSON.stringify(this.#filter)) {
      return;
    }
    this.#filter = filter;
    this.reload();
  }

  /** Starts anew: after a failure that trying again by itself would not cure. */
  reload(): void {
    this.close();
    this.notice = "";
    this.#clear();
    this.#follow(filterOf(this.#filter as FilterText));
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.#add(this.#held);
    this.#held = [];
    this.waiting = 0;
  }

  /** Nobody looks: lets go of the connection. */
  sleep(): void {
    this.#follower?.sleep();
  }

  /** Somebody looks again: goes on where it was. */
  wake(): void {
    this.#follower?.wake();
  }

  retryNow(): void {
    this.#follower?.retryNow();
  }

  async loadOlder(): Promise<void> {
    if (this.history.kind === "more" || this.history.kind === "failed") {
      await this.#load(this.history.token, NEXT_PAGE);
    }
  }

  close(): void {
    this.#follower?.stop();
    this.#calls.abort();
    clearTimeout(this.#draw);
    this.#draw = undefined;
  }

  #follow(filter: ReturnType<typeof filterOf>): void {
    this.state = { kind: "connecting" };
    this.#follower = new Follower(
      {
        open: (cursor, signal) => this.api.followEvents(filter, cursor, signal),
        clock: browserClock,
        random: Math.random,
        silenceMilliseconds: 2.5 * HEARTBEAT_SECONDS * 1000,
      },
      {
        onEvent: (event) => this.#arrive(rowOf(event)),
        onState: (state) => {
          this.state = state;
          if (state.kind === "stopped" && this.history.kind === "loading") {
            this.history = { kind: "none" };
          }
        },
        // What is stored from here on comes by the stream; the history brings what was stored before.
        onPlace: () => void this.#load("", FIRST_PAGE),
        onGap: () => {
          this.notice = "Retention removed some events before this page had read them: the list has a gap.";
        },
        onLost: (failure) => {
          this.#clear();
          this.notice = `The list was started anew. ${failure.text}`;
        },
      },
    );
    void this.#follower.run();
  }

  #clear(): void {
    this.#calls.abort();
    this.#calls = new AbortController();
    this.#arrived = [];
    this.#held = [];
    this.waiting = 0;
    this.rows = [];
    this.history = { kind: "loading" };
  }

  #arrive(row: EventRow): void {
    this.#arrived.push(row);
    if (this.#arrived.length > 2 * ROWS_MAX) {
      this.#arrived = this.#arrived.slice(-ROWS_MAX);
    }
    this.#draw ??= setTimeout(() => this.#flush(), DRAW_MILLISECONDS);
  }

  #flush(): void {
    this.#draw = undefined;
    const batch = this.#arrived.reverse();
    this.#arrived = [];
    if (this.paused) {
      this.#held = mergeNewestFirst(batch, this.#held, ROWS_MAX);
      this.waiting += batch.length;
    } else {
      this.#add(batch);
      this.listener.onShown(batch.length);
    }
  }

  /** Adds newer events on top. What no longer fits falls off the other end. */
  #add(newer: readonly EventRow[]): void {
    const whole = this.rows.length + newer.length;
    this.rows = mergeNewestFirst(newer, this.rows, ROWS_MAX);
    if (whole >= ROWS_MAX) {
      this.history = { kind: "full" };
    }
  }

  async #load(token: string, pageSize: number): Promise<void> {
    const { signal } = this.#calls;
    this.history = { kind: "loading" };
    try {
      const page = await this.api.listEvents(filterOf(this.#filter as FilterText), pageSize, token, signal);
      if (signal.aborted) {
        return;
      }
      this.rows = mergeNewestFirst(this.rows, page.rows.map(rowOf), ROWS_MAX);
      this.history = this.#after(page.nextPageToken);
      this.listener.onLoaded(this.rows.length);
    } catch (thrown) {
      if (!signal.aborted && !isCanceled(thrown)) {
        this.history = { kind: "failed", token, failure: explain(thrown) };
      }
    }
  }

  #after(token: string): History {
    if (this.rows.length >= ROWS_MAX) {
      return { kind: "full" };
    }
    return token === "" ? { kind: "end" } : { kind: "more", token };
  }
}
