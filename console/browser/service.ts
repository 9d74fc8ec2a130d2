// A hookstream of a test's own: the release binary on free ports with a data directory that goes with it, and its commands.
// Knows no browser.
import { spawn, execFile, type ChildProcess } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const BINARY = resolve(
  process.env.HOOKSTREAM_BINARY ?? join(import.meta.dirname, "../../target/release/hookstream"),
);
const START_MILLISECONDS_MAX = 20_000;

export interface DeliverOptions {
  data?: unknown;
  count?: number;
  rate?: number;
}

export class Service {
  readonly directory = mkdtempSync(join(tmpdir(), "hookstream-console-"));
  #process: ChildProcess | undefined;

  private constructor(
    private readonly ports: { ingress: number; grpc: number; admin: number },
    /** The operator's token; everybody needs one if it is set. */
    readonly operatorToken: string | undefined,
  ) {}

  static async start(operatorToken?: string): Promise<Service> {
    const ports = { ingress: await freePort(), grpc: await freePort(), admin: await freePort() };
    const service = new Service(ports, operatorToken);
    await service.startAgain();
    return service;
  }

  get adminUrl(): string {
    return `http://127.0.0.1:${this.ports.admin}`;
  }

  /** Starts it on the same ports with the same data. */
  async startAgain(): Promise<void> {
    this.#process = spawn(
      BINARY,
      [
        "serve",
        "--data-dir",
        join(this.directory, "data"),
        ...["ingress", "grpc", "admin"].flatMap((listener) => [
          `--${listener}-listen`,
          `127.0.0.1:${this.ports[listener as keyof typeof this.ports]}`,
        ]),
      ],
      { stdio: "ignore", env: this.#environment(this.operatorToken) },
    );
    await until(async () => (await fetch(`${this.adminUrl}/readyz`)).ok, START_MILLISECONDS_MAX);
  }

  /** Ends it, in order or not. */
  async stop(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const running = this.#process;
    if (running === undefined) {
      return;
    }
    this.#process = undefined;
    const ended = new Promise((done) => running.once("exit", done));
    running.kill(signal);
    await ended;
  }

  /** Lets it hang, or go on: its connections stay open and nothing comes. */
  hang(on: boolean): void {
    this.#process?.kill(on ? "SIGSTOP" : "SIGCONT");
  }

  /** Removes its data, as when it is moved to another machine without them. It must not run. */
  forgetData(): void {
    rmSync(join(this.directory, "data"), { recursive: true, force: true });
  }

  async dispose(): Promise<void> {
    await this.stop("SIGKILL");
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Runs a command that talks to it over gRPC, and returns what it printed. */
  async command(...words: string[]): Promise<string> {
    const { stdout } = await run(BINARY, words, {
      env: {
        ...this.#environment(undefined),
        HOOKSTREAM_SERVER: `http://127.0.0.1:${this.ports.grpc}`,
        ...(this.operatorToken === undefined ? {} : { HOOKSTREAM_TOKEN: this.operatorToken }),
      },
      maxBuffer: 64 * 1024 * 1024,
    });
    return stdout;
  }

  async metrics(): Promise<string> {
    return (await fetch(`${this.adminUrl}/metrics`)).text();
  }

  /** Makes an endpoint that `deliver` can deliver to. */
  async createEndpoint(name: string): Promise<void> {
    const answer = JSON.parse(await this.command("endpoint", "create", name, "--json")) as {
      create: { secret: string };
    };
    writeFileSync(this.#secretFile(name), answer.create.secret);
  }

  /** Plays HeyGen. */
  async deliver(endpoint: string, type: string, { data, count, rate }: DeliverOptions = {}): Promise<void> {
    await this.command(
      "deliver",
      type,
      "--url",
      `http://127.0.0.1:${this.ports.ingress}/webhooks/${endpoint}`,
      "--secret-file",
      this.#secretFile(endpoint),
      ...(data === undefined ? [] : ["--data", typeof data === "string" ? data : JSON.stringify(data)]),
      ...(count === undefined ? [] : ["--count", String(count)]),
      ...(rate === undefined ? [] : ["--rate", String(rate)]),
    );
  }

  /** Delivers any body, signed as HeyGen signs or with `signature`. */
  async deliverBody(
    endpoint: string,
    body: string | Uint8Array<ArrayBuffer>,
    signature?: string,
  ): Promise<void> {
    const secret = readFileSync(this.#secretFile(endpoint));
    const answer = await fetch(`http://127.0.0.1:${this.ports.ingress}/webhooks/${endpoint}`, {
      method: "POST",
      headers: { signature: signature ?? createHmac("sha256", secret).update(body).digest("hex") },
      body,
    });
    if (!answer.ok && signature === undefined) {
      throw new Error(`the delivery is answered with ${answer.status}`);
    }
  }

  /** Makes a token and returns its text. */
  async createToken(name: string, ...scopes: string[]): Promise<string> {
    const answer = await this.command("token", "create", name, "--scope", scopes.join(","), "--json");
    return (JSON.parse(answer) as { create: { secret: string } }).create.secret;
  }

  #secretFile(endpoint: string): string {
    return join(this.directory, `${endpoint}.secret`);
  }

  #environment(operatorToken: string | undefined): NodeJS.ProcessEnv {
    return {
      PATH: process.env.PATH,
      HOOKSTREAM_LOG_LEVEL: "warn",
      ...(operatorToken === undefined ? {} : { HOOKSTREAM_ADMIN_TOKEN: operatorToken }),
    };
  }
}

/** Waits until something holds; what throws does not hold yet. */
export async function until(holds: () => Promise<boolean> | boolean, millisecondsMax: number): Promise<void> {
  const end = Date.now() + millisecondsMax;
  for (;;) {
    try {
      if (await holds()) {
        return;
      }
    } catch (thrown) {
      if (Date.now() > end) {
        throw thrown;
      }
    }
    if (Date.now() > end) {
      throw new Error(`does not hold within ${millisecondsMax} ms: ${String(holds)}`);
    }
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** A port that nobody listens on, from below those that the system gives to outgoing connections: it has to stay free. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const server = createServer();
    const free = await new Promise<boolean>((done) => {
      server.once("error", () => done(false));
      server.listen(port, "127.0.0.1", () => done(true));
    });
    if (free) {
      await new Promise((done) => server.close(done));
      return port;
    }
  }
}
