using System.Text.Json;
using System.Text.Json.Serialization;
using Dapper;
using Npgsql;

namespace Shop;

public sealed record Order(
    [property: JsonPropertyName("order")] long Number,
    [property: JsonPropertyName("customer")] string Customer,
    [property: JsonPropertyName("item")] string Item,
    [property: JsonPropertyName("quantity")] int Quantity);

/// <summary>What came with the call and goes on with the event.</summary>
public sealed record Request(string CorrelationId, string Traceparent);

public sealed class OutOfStockException(string item) : Exception($"not enough of {item}");

public sealed class OrderService(NpgsqlDataSource database, string topic)
{
    private const string InsertOrder =
        "INSERT INTO orders (number, customer, item, quantity) VALUES (@Number, @Customer, @Item, @Quantity)";

    private const string TakeStock =
        "UPDATE stock SET available = available - @Quantity WHERE item = @Item AND available >= @Quantity";

    /// <summary>The order and its event, or neither. Returns the id of the event.</summary>
    public async Task<Guid> PlaceAsync(Order order, Request request, CancellationToken cancellation = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancellation);
        // Disposed without a commit, it rolls back.
        await using var transaction = await connection.BeginTransactionAsync(cancellation);
        await connection.ExecuteAsync(
            new CommandDefinition(InsertOrder, order, transaction, cancellationToken: cancellation));

        var message = new OutboxMessage(
            Id: Guid.NewGuid(),
            Topic: topic,
            Key: order.Customer,
            Payload: JsonSerializer.Serialize(order),
            EventType: "OrderPlaced",
            Headers: JsonSerializer.Serialize(
                new Dictionary<string, string> { ["traceparent"] = request.Traceparent }),
            CorrelationId: request.CorrelationId,
            CreatedAt: DateTimeOffset.UtcNow);
        await message.SaveAsync(transaction, cancellation);

        var taken = await connection.ExecuteAsync(
            new CommandDefinition(TakeStock, order, transaction, cancellationToken: cancellation));
        if (taken == 0)
        {
            throw new OutOfStockException(order.Item);
        }
        await transaction.CommitAsync(cancellation);
        return message.Id;
    }
}
