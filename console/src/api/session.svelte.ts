// Who is calling: the token, where it is kept, and whether the service has refused it. Knows no call and no view.

/** Why the page asks for a token. */
export type Ask = "needed" | "unknown" | "ended" | "signed_out";

/** Where the page stands with the service. */
export type Access = { kind: "checking" } | { kind: "granted" } | { kind: "asking"; why: Ask };

const STORAGE_KEY = "hookstream.token";

/** One tab's credentials. The token lives in this tab's session storage and nowhere else. */
export class Session {
  access = $state.raw<Access>({ kind: "checking" });
  /** The token to present, if any. */
  token = $state<string | undefined>();

  readonly #storage: Storage;

  constructor(storage: Storage) {
    this.#storage = storage;
    this.token = storage.getItem(STORAGE_KEY) ?? undefined;
  }

  /** What a call presents. */
  get authorization(): string | undefined {
    return this.token === undefined ? undefined : bearer(this.token);
  }

  /** The service answered a call without asking who calls, or did not answer at all. */
  grant(): void {
    this.access = { kind: "granted" };
  }

  signIn(token: string): void {
    this.token = token;
    this.#storage.setItem(STORAGE_KEY, token);
    this.access = { kind: "granted" };
  }

  signOut(): void {
    this.#forget("signed_out");
  }

  /** The service refused what a call presented. A late refusal of credentials that are no longer ours says nothing. */
  refuse(presented: string | undefined): void {
    if (presented !== this.authorization || this.access.kind === "asking") {
      return;
    }
    if (presented === undefined) {
      this.#forget("needed");
    } else {
      this.#forget(this.access.kind === "granted" ? "ended" : "unknown");
    }
  }

  #forget(why: Ask): void {
    this.token = undefined;
    this.#storage.removeItem(STORAGE_KEY);
    this.access = { kind: "asking", why };
  }
}

/** The value of the `authorization` header for a token. */
export function bearer(token: string): string {
  return `Bearer ${token}`;
}
