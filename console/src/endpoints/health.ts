// What an endpoint's fields say about how it is doing. Owns the judgement; refuses to know how it is drawn.
import { timestampMs } from "@bufbuild/protobuf/wkt";
import {
  EndpointState,
  ProviderStatus,
  Registration,
  type Endpoint,
} from "../generated/hookstream/v1/endpoint_pb";
import { age } from "../ui/format";

export type Tone = "ok" | "warn" | "bad" | "";

export function stateTone(state: EndpointState): Tone {
  switch (state) {
    case EndpointState.ACTIVE:
      return "ok";
    case EndpointState.DISABLED:
    case EndpointState.FAILED:
      return "bad";
    default:
      return "warn";
  }
}

/** HeyGen's side in a word. */
export function provider(endpoint: Endpoint): { text: string; tone: Tone } {
  if (endpoint.registration !== Registration.HEYGEN) {
    return { text: "not managed here", tone: "" };
  }
  switch (endpoint.provider?.status) {
    case ProviderStatus.ENABLED:
      return { text: "enabled", tone: "ok" };
    case ProviderStatus.DISABLED:
      return { text: "disabled", tone: "bad" };
    case ProviderStatus.MISSING:
      return { text: "missing", tone: "bad" };
    default:
      return { text: "not asked yet", tone: "" };
  }
}

/** Whether somebody should look at it. A rotation that is under way goes by itself. */
export function needsAttention(endpoint: Endpoint): boolean {
  return (
    endpoint.stateReason !== "" ||
    stateTone(endpoint.state) === "bad" ||
    endpoint.state === EndpointState.PENDING ||
    provider(endpoint).tone === "bad"
  );
}

/** Which secret is in force, and how old it is. */
export function secret(endpoint: Endpoint, now: number): string {
  if (endpoint.secretSince === undefined) {
    return "none yet";
  }
  return `version ${endpoint.secretVersion}, ${age(now - timestampMs(endpoint.secretSince))} old`;
}
