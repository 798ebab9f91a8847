// Places two orders: one that commits with its event, and one that is rolled back.
using Npgsql;
using Shop;

if (args.Length != 2 || !long.TryParse(args[0], out var number))
{
    Console.Error.WriteLine("usage: orders NUMBER CUSTOMER");
    return 2;
}
var customer = args[1];
var topic = Environment.GetEnvironmentVariable("TOPIC") ?? "orders";
var address = Environment.GetEnvironmentVariable("DATABASE_URL")
    ?? throw new InvalidOperationException("DATABASE_URL is not set");

await using var database = NpgsqlDataSource.Create(address);
var service = new OrderService(database, topic);
var request = new Request(
    CorrelationId: Guid.NewGuid().ToString(),
    Traceparent: Environment.GetEnvironmentVariable("TRACEPARENT")
        ?? "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");

Order[] orders = [new(number, customer, "lamp", 1), new(number + 1, customer, "lamp", 1000)];
foreach (var order in orders)
{
    try
    {
        var id = await service.PlaceAsync(order, request);
        Console.WriteLine($"order {order.Number} placed, event {id}");
    }
    catch (OutOfStockException refusal)
    {
        Console.WriteLine($"order {order.Number} rolled back: {refusal.Message}");
    }
}
return 0;
