// How the console is built: four files with fixed names, the same bytes every time, with the licences of what is in them.
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";
import { licences } from "./licences.ts";

export default defineConfig({
  base: "./",
  plugins: [svelte(), licences()],
  build: {
    target: ["chrome123", "firefox124", "safari17.5"],
    // What the old browsers would need is a script of its own; ours preload nothing.
    modulePreload: false,
    cssCodeSplit: false,
    // An inlined picture would be a `data:` address; there is none, and none shall slip in.
    assetsInlineLimit: 0,
    rolldownOptions: {
      output: {
        codeSplitting: false,
        entryFileNames: "console.js",
        assetFileNames: "console.[ext]",
      },
    },
  },
  test: { include: ["src/**/*.test.ts"], environment: "node" },
});
