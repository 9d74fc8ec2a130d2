// Appends bodies to a stream of NATS JetStream. Owns the connection.
import { jetstream } from "@nats-io/jetstream";
import { connect as connectToNats } from "@nats-io/transport-node";

/** Returns a function that ends when the server has acknowledged the body it was given. */
export async function connect(url, stream) {
  const client = jetstream(await connectToNats({ servers: url }));
  return (body) => client.publish(stream, body);
}
