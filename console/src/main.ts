// Starts the console. Wires what the page has (its address, its storage) to what the console is.
import { mount } from "svelte";
import App from "./App.svelte";
import "./styles.css";

const target = document.getElementById("console");
if (target === null) {
  throw new Error("index.html has no #console");
}
mount(App, { target });
