// What went wrong, in words for a person. Owns the table from the service's statuses and reasons to sentences; refuses to
// know which view shows them.
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../generated/google/rpc/error_details_pb";

/** A failed call. */
export interface Failure {
  code: Code;
  /** The service's reason, such as `CURSOR_TRIMMED`; empty if the service gave none. */
  reason: string;
  /** What happened and what to do, as one or two sentences. */
  text: string;
}

/** Says what a thrown value means. */
export function explain(thrown: unknown): Failure {
  const error = ConnectError.from(thrown);
  const info = error.findDetails(ErrorInfoSchema)[0];
  const reason = info?.reason ?? "";
  // A browser says that it got no answer with a TypeError.
  const code = error.cause instanceof TypeError ? Code.Unavailable : error.code;
  return { code, reason, text: sentence(code, reason, info?.metadata ?? {}, error.rawMessage) };
}

/** Whether a call was given up on purpose. */
export function isCanceled(thrown: unknown): boolean {
  return ConnectError.from(thrown).code === Code.Canceled;
}

function sentence(code: Code, reason: string, metadata: Record<string, string>, message: string): string {
  switch (reason) {
    case "SCOPE_MISSING":
      return `This token lacks the scope ${metadata.scope ?? "that this needs"}. Sign in with one that has it.`;
    case "NOT_VISIBLE":
      return "This token may see only some events. Set the filter to what it may see, such as its endpoint.";
    case "DRAINING":
      return "The service is restarting.";
    case "LOG_UNAVAILABLE":
      return "The service cannot read or write its log at the moment. See its own log for the cause.";
    case "SUBSCRIPTIONS_MOVING":
      return "The subscriptions are moving to another replica.";
    case "EVENT_NOT_FOUND":
      return "This event is no longer kept: retention has removed it.";
    case "SUBSCRIPTION_NOT_FOUND":
      return "There is no subscription of this name. It may have been deleted.";
    case "TOO_MANY_STREAMS":
      return "As many streams are open as the service allows. Close other readers.";
    case "RECORD_DAMAGED":
      return "A stored record fails its checksum. See the service's log.";
    default:
      return byCode(code, message);
  }
}

function byCode(code: Code, message: string): string {
  switch (code) {
    case Code.Unavailable:
      return "The service does not answer.";
    case Code.DeadlineExceeded:
      return "The service took too long to answer.";
    case Code.Unauthenticated:
      return "The service asks for a token.";
    case Code.PermissionDenied:
      return message === "" ? "This is not permitted." : `This is not permitted: ${message}`;
    case Code.Unimplemented:
      return "What answers here does not know this call: it may be an older hookstream, or a proxy in between.";
    default:
      return message === "" ? `The call failed (${Code[code]}).` : capitalised(message);
  }
}

/** As a sentence. A field's name at its beginning stays as it is. */
function capitalised(text: string): string {
  const sentence = /^[a-z]+ /.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text;
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}
