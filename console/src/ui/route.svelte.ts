// Which view is shown, as the part of the address behind `#`: it can be kept, shared and gone back to. Knows the names of
// views and nothing of what they show.

export const VIEWS = ["events", "endpoints", "subscriptions", "rates"] as const;
export type View = (typeof VIEWS)[number];

export interface Place {
  view: View;
  /** What is open in it: an event's id, a subscription's or an endpoint's name. */
  open: string | undefined;
  query: URLSearchParams;
}

export function parsePlace(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view, open] = path.split("/").map(decoded);
  return {
    view: VIEWS.find((known) => known === view) ?? "events",
    open: open === undefined || open === "" ? undefined : open,
    query: new URLSearchParams(query),
  };
}

export function formatPlace({ view, open, query }: Place): string {
  const path = open === undefined ? view : `${view}/${encodeURIComponent(open)}`;
  const text = query.toString();
  return text === "" ? `#/${path}` : `#/${path}?${text}`;
}

/** What somebody typed into the address may be no encoding of anything. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The place in the address bar. */
export class Router {
  place = $state.raw<Place>(parsePlace(location.hash));

  readonly #follow = () => {
    this.place = parsePlace(location.hash);
  };

  constructor() {
    addEventListener("hashchange", this.#follow);
  }

  close(): void {
    removeEventListener("hashchange", this.#follow);
  }

  go(place: Place): void {
    location.hash = formatPlace(place);
  }

  /** Opens something in the view that is shown, or closes it. */
  open(name: string | undefined): void {
    this.go({ ...this.place, open: name });
  }
}
