import Foundation
import Logging
import PostgresNIO

/// Places two orders: one that commits with its event, and one that is rolled back.
@main
struct Orders {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 3, let number = Int(arguments[1]) else {
            fatalError("usage: orders NUMBER CUSTOMER")
        }
        let environment = ProcessInfo.processInfo.environment
        let client = PostgresClient(configuration: try configuration(environment["DATABASE_URL"] ?? ""))
        let service = OrderService(
            client: client,
            topic: environment["TOPIC"] ?? "orders",
            logger: Logger(label: "orders")
        )
        let request = Request(
            correlationID: UUID().uuidString.lowercased(),
            traceparent: environment["TRACEPARENT"]
                ?? "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        )
        let orders = [
            Order(number: number, customer: arguments[2], item: "lamp", quantity: 1),
            Order(number: number + 1, customer: arguments[2], item: "lamp", quantity: 1000),
        ]
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await client.run() }
            // The pool runs until it is cancelled, also when an order fails.
            defer { group.cancelAll() }
            for order in orders {
                do {
                    let event = try await service.place(order, request)
                    print("order \(order.number) placed, event \(event.uuidString.lowercased())")
                } catch let refusal as OutOfStock {
                    print("order \(order.number) rolled back: not enough of \(refusal.item)")
                }
            }
        }
    }

    /// The driver knows no URLs.
    private static func configuration(_ url: String) throws -> PostgresClient.Configuration {
        guard let parts = URLComponents(string: url), let host = parts.host, let user = parts.user else {
            throw URLError(.badURL)
        }
        return .init(
            host: host,
            port: parts.port ?? 5432,
            username: user,
            password: parts.password,
            database: String(parts.path.dropFirst()),
            tls: .disable
        )
    }
}
