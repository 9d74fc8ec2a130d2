// Webhooks taken by Express: verifies the raw body and answers 200 once a store has it. Owns HTTP and the signature; the
// store is jetstream.js or redis.js, as STORE says. WORKERS processes share PORT; SECRET_FILE signs.
import cluster from "node:cluster";
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import express from "express";

const { PORT, SECRET_FILE, STORE, STORE_URL, STREAM, WORKERS } = process.env;

if (cluster.isPrimary) {
  for (let worker = 0; worker < Number(WORKERS); worker++) cluster.fork();
  cluster.on("exit", () => process.exit(1));
  process.on("SIGTERM", () => process.exit(0));
} else {
  const secret = readFileSync(SECRET_FILE);
  const { connect } = await import(`./${STORE}.js`);
  const append = await connect(STORE_URL, STREAM);

  function isSigned(body, signature) {
    const expected = createHmac("sha256", secret).update(body).digest();
    const presented = Buffer.from(signature, "hex");
    return presented.length === expected.length && timingSafeEqual(presented, expected);
  }

  const app = express();
  app.disable("x-powered-by");
  app.disable("etag");
  app.post("/webhooks/bench", express.raw({ type: () => true, limit: "1mb" }), async (request, response) => {
    if (!isSigned(request.body, request.get("signature") ?? "")) {
      response.sendStatus(401);
      return;
    }
    await append(request.body);
    response.sendStatus(200);
  });
  app.listen(Number(PORT), "127.0.0.1");
}
