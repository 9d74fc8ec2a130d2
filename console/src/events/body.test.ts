// Claims of the reading of raw bodies.
import { expect, test } from "vitest";
import { readBody } from "./body";

const encode = (text: string) => new TextEncoder().encode(text);

test("JSON is laid out, and what was delivered stays beside it", () => {
  const source = '{"id": 12345678901234567890}';
  const body = readBody(encode(source));
  expect(body).toMatchObject({ kind: "json", text: source });
});

test("other text is shown as it came, a byte order mark included", () => {
  expect(readBody(encode("\ufeffhello"))).toEqual({ kind: "text", text: "\ufeffhello" });
});

test("what is no text is shown as bytes", () => {
  expect(readBody(new Uint8Array([0xff, 0x00, 0x41]))).toEqual({ kind: "bytes", text: "0000  ff 00 41" });
});
