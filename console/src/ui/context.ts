// What every view of the signed-in console shares. Lives and ends with one sign-in.
import { createContext } from "svelte";
import type { Api } from "../api/api";
import type { EventStore } from "../events/store.svelte";
import type { Sampler } from "../rates/sampler.svelte";
import type { Announcer } from "./announcer.svelte";
import type { Now } from "./now.svelte";
import type { Preferences } from "./preferences.svelte";
import type { Router } from "./route.svelte";

export interface ConsoleContext {
  api: Api;
  router: Router;
  events: EventStore;
  sampler: Sampler;
  announcer: Announcer;
  preferences: Preferences;
  now: Now;
}

export const [consoleContext, setConsoleContext] = createContext<ConsoleContext>();
