// Reads OpenMetrics text, as far as a service writes it: samples with labels. Knows no metric by name.

export interface Sample {
  labels: Record<string, string>;
  value: number;
}

/** Samples by their full name, suffixes such as `_total` and `_bucket` included. */
export type Samples = Map<string, Sample[]>;

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)(?: .*)?$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?/y;

/** Throws if a line is none that OpenMetrics has. */
export function parseOpenMetrics(text: string): Samples {
  const samples: Samples = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) {
      continue;
    }
    const match = LINE.exec(line);
    if (match === null) {
      throw new Error(`no OpenMetrics: ${line}`);
    }
    const [, name = "", labels = "", value = ""] = match;
    const sample = { labels: parseLabels(labels), value: parseNumber(value) };
    const siblings = samples.get(name);
    if (siblings === undefined) {
      samples.set(name, [sample]);
    } else {
      siblings.push(sample);
    }
  }
  return samples;
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  LABEL.lastIndex = 0;
  let end = 0;
  for (let match = LABEL.exec(text); match !== null; match = LABEL.exec(text)) {
    const [, name = "", value = ""] = match;
    labels[name] = value.replace(/\\(.)/g, (_, escaped: string) => (escaped === "n" ? "\n" : escaped));
    end = LABEL.lastIndex;
  }
  if (end !== text.length) {
    throw new Error(`no OpenMetrics labels: ${text}`);
  }
  return labels;
}

function parseNumber(text: string): number {
  switch (text) {
    case "+Inf":
      return Infinity;
    case "-Inf":
      return -Infinity;
    case "NaN":
      return NaN;
    default: {
      const value = Number(text);
      if (Number.isNaN(value)) {
        throw new Error(`no OpenMetrics number: ${text}`);
      }
      return value;
    }
  }
}
