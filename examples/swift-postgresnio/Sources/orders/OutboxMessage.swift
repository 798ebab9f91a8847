import Foundation
import Logging
import PostgresNIO

/// The row that becomes a record.
struct OutboxMessage: Sendable {
    let id: UUID
    let topic: String
    /// Order holds within a key; nil spreads.
    let key: String?
    /// JSON text; sent as these very bytes.
    let payload: String
    let eventType: String
    /// The JSON text of an object.
    let headers: String
    let correlationID: String?
    let createdAt: Date

    /// To be called inside of the transaction that changes the data.
    func save(on connection: PostgresConnection, logger: Logger) async throws {
        try await connection.query(
            """
            INSERT INTO outbox.messages
                (id, topic, key, payload, event_type, headers, correlation_id, created_at)
            VALUES (\(id), \(topic), \(key), \(payload)::json, \(eventType), \(headers)::jsonb,
                \(correlationID), \(createdAt))
            """,
            logger: logger
        )
    }
}
