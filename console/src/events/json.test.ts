// Claims of the layout of JSON: nothing that was delivered is changed by it.
import { expect, test } from "vitest";
import { layOut } from "./json";

function text(source: string): string | undefined {
  return layOut(source)
    ?.map((token) => token.text)
    .join("");
}

test("lays nested objects and lists out", () => {
  expect(text('{"a":[1,{"b":null}],"c":{},"d":[]}')).toBe(
    '{\n  "a": [\n    1,\n    {\n      "b": null\n    }\n  ],\n  "c": {},\n  "d": []\n}',
  );
});

test.each([
  "12345678901234567890",
  "9007199254740993",
  "-0",
  "1.10",
  "1E400",
  "0.1000000000000000055511151231257827",
])("keeps the digits of %s", (number) => {
  expect(text(`{"n": ${number}}`)).toBe(`{\n  "n": ${number}\n}`);
});

test("keeps escapes, keys that repeat and their order", () => {
  const source = '{"b":"\\u00e9\\/\\n","a":"é","b":"\\"{,}:[]"}';
  expect(text(source)).toBe('{\n  "b": "\\u00e9\\/\\n",\n  "a": "é",\n  "b": "\\"{,}:[]"\n}');
});

test("drops white space between tokens only", () => {
  expect(text(' \r\n{ "a b" :\t"c  d" } \n')).toBe('{\n  "a b": "c  d"\n}');
});

test("says what each token is", () => {
  const kinds = layOut('{"k":["s",1,true]}')
    ?.filter(({ kind }) => kind !== "punctuation")
    .map(({ kind, text }) => [kind, text.trim()]);
  expect(kinds).toEqual([
    ["key", '"k"'],
    ["string", '"s"'],
    ["number", "1"],
    ["word", "true"],
  ]);
});

test("what is laid out means what was delivered", () => {
  const source = JSON.stringify({
    a: [[], {}, [{ b: [1, 2, { c: "x" }] }]],
    "": { "\u2028": "\ud83d\ude00" },
  });
  expect(JSON.parse(text(source) as string)).toEqual(JSON.parse(source));
});

test.each(["", "{", "{'a':1}", "[1,]", "nope", '{"a":01}'])("does not take %s for JSON", (source) => {
  expect(layOut(source)).toBeUndefined();
});

test("does not lay out what is nested beyond reason", () => {
  expect(layOut("[".repeat(5000) + "]".repeat(5000))).toBeUndefined();
});

test("takes a string as long as a body can be", () => {
  const long = `${"x".repeat(500_000)}${"\\n".repeat(250_000)}`;
  expect(text(`{"a":"${long}"}`)).toBe(`{\n  "a": "${long}"\n}`);
});
