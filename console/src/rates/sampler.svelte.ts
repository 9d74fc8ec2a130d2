// Reads the metrics every two seconds while the page is visible and keeps ten minutes of them. Refuses to know the names of
// metrics and how they are drawn.
import { Code } from "@connectrpc/connect";
import type { Api } from "../api/api";
import { explain, type Failure } from "../api/failure";
import { readSnapshot, type Snapshot, type Unverified } from "./snapshot";

const INTERVAL_MILLISECONDS = 2_000;
const SNAPSHOTS_MAX = 300;

export class Sampler {
  snapshots = $state.raw<readonly Snapshot[]>([]);
  /** Of the last reading; undefined before the first. */
  unverified = $state.raw<Unverified | undefined>();
  /** Why the last reading failed, if it did. */
  failure = $state.raw<Failure | undefined>();

  readonly #stopped = new AbortController();

  constructor(private readonly api: Api) {}

  /** The token may not read metrics. */
  get forbidden(): boolean {
    return this.failure?.code === Code.PermissionDenied;
  }

  /** Samples until `stop`, or until the token is found to lack the scope, which does not change. */
  async run(): Promise<void> {
    while (!this.#stopped.signal.aborted && !this.forbidden) {
      if (!document.hidden) {
        await this.#sample();
      }
      await this.#pause();
    }
  }

  stop(): void {
    this.#stopped.abort();
  }

  async #sample(): Promise<void> {
    try {
      const text = await this.api.metrics(this.#stopped.signal);
      const { snapshot, unverified } = readSnapshot(text, Date.now());
      this.snapshots = [...this.snapshots, snapshot].slice(-SNAPSHOTS_MAX);
      this.unverified = unverified;
      this.failure = undefined;
    } catch (thrown) {
      if (!this.#stopped.signal.aborted) {
        this.failure = explain(thrown);
      }
    }
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#stopped.signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, INTERVAL_MILLISECONDS);
      this.#stopped.signal.addEventListener("abort", done);
    });
  }
}
