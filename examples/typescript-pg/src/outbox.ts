import type { ClientBase } from "pg";

/** The row that becomes a record. */
export interface OutboxMessage {
  id: string;
  topic: string;
  /** Order holds within a key; null spreads. */
  key: string | null;
  /** JSON text; sent as these very bytes. */
  payload: string;
  eventType: string;
  headers: Record<string, string>;
  correlationId: string | null;
  createdAt: Date;
}

/** To be called inside of the transaction that changes the data. */
export async function saveMessage(client: ClientBase, message: OutboxMessage): Promise<void> {
  await client.query(
    `INSERT INTO outbox.messages (id, topic, key, payload, event_type, headers, correlation_id, created_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
    [
      message.id,
      message.topic,
      message.key,
      message.payload,
      message.eventType,
      message.headers,
      message.correlationId,
      message.createdAt,
    ],
  );
}
