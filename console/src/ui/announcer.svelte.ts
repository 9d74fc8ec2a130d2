// What a screen reader is told without being asked: politely, and not more often than one can listen. Knows no events.
import { counted } from "./format";

const QUIET_MILLISECONDS = 8_000;

export class Announcer {
  text = $state("");

  #arrived = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Says something now. The same words again are news only if they differ, so they get a space that nobody hears. */
  say(text: string): void {
    this.text = text === this.text ? `${text}\u00a0` : text;
  }

  /** Counts what arrived, and says the sum once in a while. */
  arrived(count: number): void {
    this.#arrived += count;
    this.#timer ??= setTimeout(() => {
      this.say(counted(this.#arrived, "new event"));
      this.#arrived = 0;
      this.#timer = undefined;
    }, QUIET_MILLISECONDS);
  }
}
