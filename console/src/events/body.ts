// A raw body as text: what was delivered, as it was delivered. Owns the reading of bytes; the layout of JSON is in json.ts.
import { layOut, type Token } from "./json";

export type Body =
  /** JSON, laid out and as delivered. */
  | { kind: "json"; tokens: Token[]; text: string }
  /** Text that is not JSON. */
  | { kind: "text"; text: string }
  /** Not UTF-8: the first bytes in hexadecimal. */
  | { kind: "bytes"; text: string };

const HEX_BYTES_MAX = 1024;

export function readBody(bytes: Uint8Array): Body {
  let text: string;
  try {
    // The mark at the start of some files is a byte like any other here.
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return { kind: "bytes", text: hexadecimal(bytes.subarray(0, HEX_BYTES_MAX)) };
  }
  const tokens = layOut(text);
  return tokens === undefined ? { kind: "text", text } : { kind: "json", tokens, text };
}

function hexadecimal(bytes: Uint8Array): string {
  const lines: string[] = [];
  for (let offset = 0; offset < bytes.length; offset += 16) {
    const line = [...bytes.subarray(offset, offset + 16)].map((byte) => byte.toString(16).padStart(2, "0"));
    lines.push(`${offset.toString(16).padStart(4, "0")}  ${line.join(" ")}`);
  }
  return lines.join("\n");
}
