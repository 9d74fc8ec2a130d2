// Claims of the OpenMetrics reader.
import { expect, test } from "vitest";
import { parseOpenMetrics } from "./openmetrics";

test("reads samples with and without labels and skips what describes them", () => {
  const samples = parseOpenMetrics(
    '# HELP a What it is.\n# TYPE a gauge\na 3\nb_total{outcome="stored",endpoint="x"} 4.5\nb_total{outcome="duplicate"} 1\n# EOF\n',
  );
  expect(samples.get("a")).toEqual([{ labels: {}, value: 3 }]);
  expect(samples.get("b_total")).toEqual([
    { labels: { outcome: "stored", endpoint: "x" }, value: 4.5 },
    { labels: { outcome: "duplicate" }, value: 1 },
  ]);
});

test("reads escapes in labels, and braces and commas as what they are", () => {
  const samples = parseOpenMetrics('a{x="q\\"b\\\\n\\n",y="},{ 1"} 2\n');
  expect(samples.get("a")).toEqual([{ labels: { x: 'q"b\\n\n', y: "},{ 1" }, value: 2 }]);
});

test("reads numbers of every form, and a timestamp or exemplar behind them", () => {
  const text = 'a 1e3\na -0.5\na +Inf\na -Inf\na NaN\na 7 1520879607.789\na{le="1"} 8 # {trace="t"} 0.5\n';
  expect(
    parseOpenMetrics(text)
      .get("a")
      ?.map(({ value }) => value),
  ).toEqual([1000, -0.5, Infinity, -Infinity, NaN, 7, 8]);
});

test("a label may be named as what every object has", () => {
  const samples = parseOpenMetrics('a{endpoint="constructor"} 1\n');
  expect(samples.get("a")?.[0]?.labels.endpoint).toBe("constructor");
});

test.each(["<html>", 'a{x="1} 2', "a{x=1} 2", "a two"])("refuses %s", (line) => {
  expect(() => parseOpenMetrics(`${line}\n`)).toThrow("no OpenMetrics");
});
