// What components share without passing it on: the page's for as long as it is open, and the console's, which lives and
// ends with one sign-in.
import { createContext } from "svelte";
import type { Api } from "../api/api";
import type { Session } from "../api/session.svelte";
import type { EventStore } from "../events/store.svelte";
import type { Sampler } from "../rates/sampler.svelte";
import type { Announcer } from "./announcer.svelte";
import type { Now } from "./now.svelte";
import type { Preferences } from "./preferences.svelte";
import type { Router } from "./route.svelte";

export interface PageContext {
  api: Api;
  session: Session;
  preferences: Preferences;
}

export interface ConsoleContext extends PageContext {
  router: Router;
  events: EventStore;
  sampler: Sampler;
  announcer: Announcer;
  now: Now;
}

export const [pageContext, setPageContext] = createContext<PageContext>();
export const [consoleContext, setConsoleContext] = createContext<ConsoleContext>();
