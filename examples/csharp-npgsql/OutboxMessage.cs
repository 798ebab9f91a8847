using System.Data.Common;
using Dapper;

namespace Shop;

/// <summary>The row that becomes a record.</summary>
/// <param name="Key">Order holds within a key; null spreads.</param>
/// <param name="Payload">JSON text; sent as these very bytes.</param>
/// <param name="Headers">The JSON text of an object.</param>
public sealed record OutboxMessage(
    Guid Id,
    string Topic,
    string? Key,
    string Payload,
    string EventType,
    string Headers,
    string? CorrelationId,
    DateTimeOffset CreatedAt)
{
    private const string Insert = """
        INSERT INTO outbox.messages (id, topic, key, payload, event_type, headers, correlation_id, created_at)
        VALUES (@Id, @Topic, @Key, @Payload::json, @EventType, @Headers::jsonb, @CorrelationId, @CreatedAt)
        """;

    /// <summary>Takes the transaction that changes the data.</summary>
    public Task SaveAsync(DbTransaction transaction, CancellationToken cancellation = default) =>
        transaction.Connection!.ExecuteAsync(
            new CommandDefinition(Insert, this, transaction, cancellationToken: cancellation));
}
