// A visit of the page by a browser, and what every visit must be free of: scripts that fail, and anything that the content
// security policy had to stop. Knows no view.
import { chromium, type Browser, type Page } from "playwright-core";
import { hostPage, type Host } from "./host";
import type { Service } from "./service";

export interface VisitOptions {
  width?: number;
  height?: number;
  colorScheme?: "light" | "dark";
}

export class Visit {
  /** What must not have happened. */
  readonly faults: string[] = [];

  private constructor(
    readonly page: Page,
    readonly host: Host,
    private readonly browser: Browser,
  ) {}

  static async start(service: Service, options: VisitOptions = {}): Promise<Visit> {
    const host = await hostPage(service.adminUrl);
    const browser = await chromium.launch({
      executablePath: "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-dev-shm-usage"],
    });
    const { width = 1280, height = 800, colorScheme = "light" } = options;
    const page = await browser.newPage({ viewport: { width, height }, colorScheme });
    const visit = new Visit(page, host, browser);
    page.on("pageerror", (error) => visit.faults.push(error.message));
    page.on("console", (message) => {
      // The browser reports calls that fail as errors too; those are for the page to show.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
        visit.faults.push(message.text());
      }
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(host.url) && !request.url().startsWith("blob:")) {
        visit.faults.push(`asks ${request.url()}`);
      }
    });
    return visit;
  }

  /** Goes to a place in the page, such as `events?type=*.fail`. */
  async go(place = ""): Promise<void> {
    await this.page.goto(place === "" ? this.host.url : `${this.host.url}#/${place}`);
  }

  /** Waits until the stream is live. */
  async live(): Promise<void> {
    await this.page.locator("[data-state=live]").waitFor();
  }

  /** Brings the tab into sight, or out of it. */
  async look(visible: boolean): Promise<void> {
    await this.page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }, !visible);
  }

  /** The list of the view that is shown. */
  get list() {
    return this.page.getByRole("grid");
  }

  /** The rows in sight that hold this text. */
  row(text: string) {
    return this.list.getByRole("row").filter({ hasText: text });
  }

  /** How many the list holds, those out of sight included. */
  async rowCount(): Promise<number> {
    return Number(await this.list.getAttribute("aria-rowcount")) - 1;
  }

  async end(): Promise<void> {
    await this.browser.close();
    await this.host.close();
  }
}
