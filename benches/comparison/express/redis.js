// Appends bodies to a stream of Redis. Owns the connection.
import { createClient } from "redis";

/** Returns a function that ends when the server has answered for the body it was given. */
export async function connect(url, stream) {
  const client = createClient({ url });
  // Redis reconnects by itself; without a listener the first lost connection would end the process.
  client.on("error", (error) => console.error(error));
  await client.connect();
  return (body) => client.xAdd(stream, "*", { body });
}
