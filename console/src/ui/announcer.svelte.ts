// What a screen reader is told without being asked: politely, and not more often than one can listen. Knows no events.

const QUIET_MILLISECONDS = 8_000;

export class Announcer {
  text = $state("");

  #arrived = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Says something now. */
  say(text: string): void {
    this.text = text;
  }

  /** Counts what arrived, and says the sum once in a while. */
  arrived(count: number): void {
    this.#arrived += count;
    this.#timer ??= setTimeout(() => {
      this.text = this.#arrived === 1 ? "1 new event" : `${this.#arrived} new events`;
      this.#arrived = 0;
      this.#timer = undefined;
    }, QUIET_MILLISECONDS);
  }
}
