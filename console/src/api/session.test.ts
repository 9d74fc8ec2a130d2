// Claims of the session.
import { beforeEach, expect, test } from "vitest";
import { bearer, Session } from "./session.svelte";

let kept: Map<string, string>;
let storage: Storage;

beforeEach(() => {
  kept = new Map();
  storage = {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => void kept.set(key, value),
    removeItem: (key: string) => void kept.delete(key),
  } as Storage;
});

test("a token is kept for the tab, and presented", () => {
  new Session(storage).signIn("secret");
  const session = new Session(storage);
  expect(session.authorization).toBe("Bearer secret");
});

test("a token that is refused at once was never known", () => {
  kept.set("hookstream.token", "stale");
  const session = new Session(storage);
  session.refuse(bearer("stale"));
  expect(session.access).toEqual({ kind: "asking", why: "unknown" });
});

test("a refusal of a token that was good forgets it and asks for another", () => {
  const session = new Session(storage);
  session.signIn("secret");
  session.refuse(bearer("secret"));
  expect(session.access).toEqual({ kind: "asking", why: "ended" });
  expect(kept.size).toBe(0);
  expect(session.authorization).toBeUndefined();
});

test("without a token a refusal says that one is needed", () => {
  const session = new Session(storage);
  session.refuse(undefined);
  expect(session.access).toEqual({ kind: "asking", why: "needed" });
});

test("a late refusal of another token says nothing", () => {
  const session = new Session(storage);
  session.signIn("second");
  session.refuse(bearer("first"));
  expect(session.access).toEqual({ kind: "granted" });
  expect(session.authorization).toBe("Bearer second");
});

test("signing out forgets", () => {
  const session = new Session(storage);
  session.signIn("secret");
  session.signOut();
  expect(session.access).toEqual({ kind: "asking", why: "signed_out" });
  expect(kept.size).toBe(0);
});
