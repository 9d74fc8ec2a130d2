// Puts the licences of the bundled packages at the top of the bundle, and refuses packages whose licence is not permissive.
// It knows nothing of what the packages do.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Plugin } from "vite";

const PERMISSIVE = new Set([
  "MIT",
  "ISC",
  "Apache-2.0",
  "BSD-2-Clause",
  "BSD-3-Clause",
  "(Apache-2.0 AND BSD-3-Clause)",
]);

interface BundledPackage {
  name: string;
  version: string;
  licence: string;
  /** The licence, and those of files in it that came from elsewhere. */
  texts: string[];
}

/** Adds the notices after minifying, which would drop some and keep others. */
export function licences(): Plugin {
  return {
    name: "hookstream-licences",
    apply: "build",
    generateBundle(_options, bundle) {
      for (const chunk of Object.values(bundle)) {
        if (chunk.type === "chunk") {
          chunk.code = `/*!\n${notices(chunk.moduleIds)}*/\n${chunk.code}`;
        }
      }
    },
  };
}

function notices(moduleIds: string[]): string {
  const packages = new Map<string, BundledPackage>();
  for (const id of moduleIds) {
    const directory = packageDirectory(id);
    if (directory === undefined) {
      continue;
    }
    const bundled = packages.get(directory) ?? readPackage(directory);
    packages.set(directory, bundled);
    bundled.texts.push(...licenceInSource(id));
  }
  const byText = new Map<string, BundledPackage[]>();
  for (const bundled of [...packages.values()].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    for (const text of bundled.texts) {
      byText.set(text, [...(byText.get(text) ?? []), bundled]);
    }
  }
  let notice = "The console of hookstream, under the Apache License 2.0. It contains the packages below.\n";
  for (const [text, sharing] of byText) {
    const names = sharing.map(
      ({ name, version, licence }) => `${name} ${version}, ${licence.replace(/[()]/g, "")}`,
    );
    notice += `\n---- ${names.join("; ")}\n\n${text}\n`;
  }
  return notice.replaceAll("*/", "* /");
}

/** The directory of the package that a module belongs to; undefined for our own modules. */
function packageDirectory(id: string): string | undefined {
  const match = /^(?:\0)?(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id);
  return match?.[1];
}

function readPackage(directory: string): BundledPackage {
  const manifest = JSON.parse(readFileSync(join(directory, "package.json"), "utf8")) as Record<
    string,
    unknown
  >;
  const name = String(manifest.name);
  const licence = String(manifest.license);
  if (!PERMISSIVE.has(licence)) {
    throw new Error(`${name} is under ${licence}, which is not on the list in licences.ts`);
  }
  return { name, version: String(manifest.version), licence, texts: [licenceText(directory, licence)] };
}

/** The licences that a single file of a package carries because it came from elsewhere: none, for most. */
function licenceInSource(id: string): string[] {
  const file = id.replace(/^\0|\?.*$/g, "");
  if (!existsSync(file)) {
    return [];
  }
  const comments = readFileSync(file, "utf8").match(/^(?:\/\/.*\n)+/gm) ?? [];
  return comments
    .filter((comment) => comment.includes("Redistribution and use in source and binary forms"))
    .map((comment) => comment.replace(/^\/\/ ?/gm, "").trim());
}

function licenceText(directory: string, licence: string): string {
  const file = readdirSync(directory).find((name) => /^licen[cs]e/i.test(name));
  if (file !== undefined) {
    return readFileSync(join(directory, file), "utf8").trim();
  }
  if (!licence.includes("Apache-2.0")) {
    throw new Error(`${directory} has no text of its licence, ${licence}`);
  }
  // Some packages come without the text. It is the same as ours.
  return readFileSync(join(import.meta.dirname, "..", "LICENSE"), "utf8").trim();
}
