// Where the page is served in tests: by the service itself, or, by one that does not serve it, by a stand-in that serves
// dist/ with the headers that the service would and passes every other request on.
import { readFileSync } from "node:fs";
import { createServer, request, type IncomingMessage, type ServerResponse } from "node:http";
import { join } from "node:path";

const CONTENT_SECURITY_POLICY =
  "default-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; " +
  "frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
const TYPES: Record<string, string> = {
  "index.html": "text/html; charset=utf-8",
  "console.js": "text/javascript; charset=utf-8",
  "console.css": "text/css; charset=utf-8",
  "icon.svg": "image/svg+xml",
};

export interface Host {
  url: string;
  close(): Promise<void>;
}

export async function hostPage(adminUrl: string): Promise<Host> {
  const own = await fetch(`${adminUrl}/`);
  if (own.ok) {
    return { url: `${adminUrl}/`, close: () => Promise.resolve() };
  }
  const server = createServer((incoming, outgoing) => {
    const file = incoming.url === "/" ? "index.html" : (incoming.url ?? "").slice(1);
    const type = TYPES[file];
    if (incoming.method === "GET" && type !== undefined) {
      const body = readFileSync(join(import.meta.dirname, "../dist", file));
      outgoing.writeHead(200, { "content-type": type, "content-security-policy": CONTENT_SECURITY_POLICY });
      outgoing.end(body);
    } else {
      passOn(adminUrl, incoming, outgoing);
    }
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const address = server.address();
  if (address === null || typeof address === "string") {
    throw new Error("a listener without a port");
  }
  return {
    url: `http://127.0.0.1:${address.port}/`,
    close: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
}

function passOn(adminUrl: string, incoming: IncomingMessage, outgoing: ServerResponse): void {
  const onward = request(
    new URL(incoming.url ?? "/", adminUrl),
    // The `host` of the page stays, because the service compares it with the page's origin.
    { method: incoming.method ?? "GET", headers: incoming.headers },
    (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      outgoing.flushHeaders();
      answer.pipe(outgoing);
      answer.on("error", () => outgoing.destroy());
      answer.on("aborted", () => outgoing.destroy());
    },
  );
  // A service that is down refuses the connection, and so does this.
  onward.on("error", () => outgoing.destroy());
  outgoing.on("close", () => onward.destroy());
  incoming.pipe(onward);
}
