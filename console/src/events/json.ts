// Lays JSON out for reading without changing any of it: numbers, strings and keys keep the characters they came with, so
// that an integer beyond 2^53 stays what it was. Owns that; refuses to know what the JSON means.

/** What a piece of laid-out JSON is, for colouring. */
export type TokenKind = "key" | "string" | "number" | "word" | "punctuation";

export interface Token {
  kind: TokenKind;
  text: string;
}

/** Deeper nesting is not laid out. */
const DEPTH_MAX = 200;

const STRING = /"[^"\\\u0000-\u001f]*(?:\\.[^"\\\u0000-\u001f]*)*"/;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/;
const TOKEN = new RegExp(
  `[ \\t\\r\\n]*(?:(${STRING.source})|(${NUMBER.source})|(true|false|null)|([{}[\\],:]))`,
  "y",
);

/** The tokens of laid-out JSON, white space included; undefined for what is not JSON. */
export function layOut(source: string): Token[] | undefined {
  try {
    JSON.parse(source);
  } catch {
    return undefined;
  }
  const tokens: Token[] = [];
  let depth = 0;
  let previous = "";
  TOKEN.lastIndex = 0;
  for (let match = TOKEN.exec(source); match !== null; match = TOKEN.exec(source)) {
    const [, string, number, word, mark] = match;
    const text = string ?? number ?? word ?? mark ?? "";
    const opens = text === "{" || text === "[";
    const closes = text === "}" || text === "]";
    if (closes) {
      depth -= 1;
    }
    if (depth > DEPTH_MAX) {
      return undefined;
    }
    tokens.push({ kind: kindOf(string, number, word), text: gap(previous, text, closes, depth) + text });
    if (mark === ":") {
      markKey(tokens);
    }
    if (opens) {
      depth += 1;
    }
    previous = text;
  }
  return tokens;
}

function kindOf(string?: string, number?: string, word?: string): TokenKind {
  if (string !== undefined) {
    return "string";
  }
  if (number !== undefined) {
    return "number";
  }
  return word === undefined ? "punctuation" : "word";
}

/** The white space between two tokens. */
function gap(previous: string, text: string, closes: boolean, depth: number): string {
  const line = `\n${"  ".repeat(depth)}`;
  const empty = (previous === "{" && text === "}") || (previous === "[" && text === "]");
  if (previous === ":") {
    return " ";
  }
  if (previous === "{" || previous === "[") {
    return empty ? "" : line;
  }
  return previous === "," || closes ? line : "";
}

/** The string before a colon is a key. */
function markKey(tokens: Token[]): void {
  const key = tokens.at(-2);
  if (key !== undefined) {
    key.kind = "key";
  }
}
