// A list that the service pages through, read whole and again at intervals. Knows pages and failures; refuses to know what
// is listed.
import type { Page } from "../api/api";
import { explain, isCanceled, type Failure } from "../api/failure";

const PAGE_SIZE = 1000;

export class Listing<Row> {
  rows = $state.raw<readonly Row[]>([]);
  /** All pages were read at least once. */
  complete = $state(false);
  /** Why the last reading failed, if it did. What was read before stays. */
  failure = $state.raw<Failure | undefined>();

  #reading = false;
  readonly #stopped = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly read: (pageSize: number, pageToken: string, signal: AbortSignal) => Promise<Page<Row>>,
    private readonly intervalMilliseconds: number,
  ) {}

  /** Reads all pages now, and again after each interval while the page is visible. */
  async refresh(): Promise<void> {
    clearTimeout(this.#timer);
    if (!this.#reading && !document.hidden) {
      await this.#readAll();
    }
    if (!this.#stopped.signal.aborted) {
      this.#timer = setTimeout(() => void this.refresh(), this.intervalMilliseconds);
    }
  }

  stop(): void {
    this.#stopped.abort();
    clearTimeout(this.#timer);
  }

  async #readAll(): Promise<void> {
    const { signal } = this.#stopped;
    this.#reading = true;
    try {
      let rows: Row[] = [];
      let token = "";
      do {
        const page = await this.read(PAGE_SIZE, token, signal);
        rows = [...rows, ...page.rows];
        token = page.nextPageToken;
        if (!this.complete) {
          this.rows = rows;
        }
      } while (token !== "");
      this.rows = rows;
      this.complete = true;
      this.failure = undefined;
    } catch (thrown) {
      if (!signal.aborted && !isCanceled(thrown)) {
        this.failure = explain(thrown);
      }
    } finally {
      this.#reading = false;
    }
  }
}
