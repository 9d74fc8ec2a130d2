// The time, once a second, for ages that grow on the page.

export class Now {
  value = $state(Date.now());

  readonly #timer = setInterval(() => {
    this.value = Date.now();
  }, 1000);

  stop(): void {
    clearInterval(this.#timer);
  }
}
