package shop;

import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.time.OffsetDateTime;
import java.util.UUID;

/**
 * The row that becomes a record.
 *
 * @param key order holds within a key; null spreads
 * @param payload JSON text; sent as these very bytes
 * @param headers the JSON text of an object
 */
record OutboxMessage(
        UUID id,
        String topic,
        String key,
        String payload,
        String eventType,
        String headers,
        String correlationId,
        OffsetDateTime createdAt) {

    private static final String INSERT = """
            INSERT INTO outbox.messages (id, topic, key, payload, event_type, headers, correlation_id, created_at)
            VALUES (?, ?, ?, ?::json, ?, ?::jsonb, ?, ?)
            """;

    /** To be called inside of the transaction that changes the data. */
    void save(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(INSERT)) {
            statement.setObject(1, id);
            statement.setString(2, topic);
            statement.setString(3, key);
            statement.setString(4, payload);
            statement.setString(5, eventType);
            statement.setString(6, headers);
            statement.setString(7, correlationId);
            statement.setObject(8, createdAt);
            statement.executeUpdate();
        }
    }
}
