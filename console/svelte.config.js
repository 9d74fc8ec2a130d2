// How Svelte compiles the console: runes everywhere.
export default { compilerOptions: { runes: true } };
