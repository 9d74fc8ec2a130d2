// Claims of what failures mean in words.
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { ErrorInfoSchema } from "../generated/google/rpc/error_details_pb";
import { explain } from "./failure";

function failed(code: Code, reason: string, metadata: Record<string, string> = {}): ConnectError {
  return new ConnectError("as the service says it", code, undefined, [
    { desc: ErrorInfoSchema, value: create(ErrorInfoSchema, { reason, domain: "hookstream", metadata }) },
  ]);
}

test("a browser without an answer means that the service does not answer", () => {
  const failure = explain(ConnectError.from(new TypeError("Failed to fetch")));
  expect(failure).toEqual({ code: Code.Unavailable, reason: "", text: "The service does not answer." });
});

test("a missing scope is named", () => {
  const { text, reason } = explain(failed(Code.PermissionDenied, "SCOPE_MISSING", { scope: "events:read" }));
  expect(reason).toBe("SCOPE_MISSING");
  expect(text).toContain("events:read");
});

test("what there is no better word for is said in the service's", () => {
  expect(explain(new ConnectError("the page token is malformed", Code.InvalidArgument)).text).toBe(
    "The page token is malformed.",
  );
  expect(explain(new ConnectError("filter.event_types[1] is empty", Code.InvalidArgument)).text).toBe(
    "filter.event_types[1] is empty.",
  );
  expect(explain(new ConnectError("", Code.Internal)).text).toBe("The call failed (Internal).");
});
