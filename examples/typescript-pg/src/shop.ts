import { randomUUID } from "node:crypto";
import type { ClientBase, Pool } from "pg";
import { saveMessage } from "./outbox.js";

export interface Order {
  number: number;
  customer: string;
  item: string;
  quantity: number;
}

/** What came with the request and goes on with the event. */
export interface Request {
  correlationId: string;
  traceparent: string;
}

export class OutOfStock extends Error {
  constructor(item: string) {
    super(`not enough of ${item}`);
    this.name = "OutOfStock";
  }
}

/** The order and its event, or neither. Gives the id of the event. */
export async function placeOrder(pool: Pool, topic: string, order: Order, request: Request): Promise<string> {
  return inTransaction(pool, async (client) => {
    const { number, customer, item, quantity } = order;
    await client.query(
      "INSERT INTO orders (number, customer, item, quantity) VALUES ($1, $2, $3, $4)",
      [number, customer, item, quantity],
    );

    const id = randomUUID();
    await saveMessage(client, {
      id,
      topic,
      key: customer,
      payload: JSON.stringify({ order: number, customer, item, quantity }),
      eventType: "OrderPlaced",
      headers: { traceparent: request.traceparent },
      correlationId: request.correlationId,
      createdAt: new Date(),
    });

    const taken = await client.query(
      "UPDATE stock SET available = available - $1 WHERE item = $2 AND available >= $1",
      [quantity, item],
    );
    if (taken.rowCount === 0) throw new OutOfStock(item);
    return id;
  });
}

async function inTransaction<T>(pool: Pool, work: (client: ClientBase) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    await client.query("BEGIN");
    const result = await work(client);
    await client.query("COMMIT");
    return result;
  } catch (error) {
    // A connection that can't even roll back is closed, which ends its transaction as well.
    await client.query("ROLLBACK").catch((failure: Error) => (broken = failure));
    throw error;
  } finally {
    client.release(broken);
  }
}
