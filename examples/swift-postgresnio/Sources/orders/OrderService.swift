import Foundation
import Logging
import PostgresNIO

struct Order: Encodable, Sendable {
    let number: Int
    let customer: String
    let item: String
    let quantity: Int32

    enum CodingKeys: String, CodingKey {
        case number = "order"
        case customer, item, quantity
    }
}

/// What came with the call and goes on with the event.
struct Request: Sendable {
    let correlationID: String
    let traceparent: String
}

struct OutOfStock: Error {
    let item: String
}

struct OrderService: Sendable {
    let client: PostgresClient
    let topic: String
    let logger: Logger

    /// The order and its event, or neither. Returns the id of the event.
    func place(_ order: Order, _ request: Request) async throws -> UUID {
        let message = OutboxMessage(
            id: UUID(),
            topic: topic,
            key: order.customer,
            payload: try json(order),
            eventType: "OrderPlaced",
            headers: try json(["traceparent": request.traceparent]),
            correlationID: request.correlationID,
            createdAt: Date()
        )
        do {
            // An error that leaves the closure rolls back.
            try await client.withTransaction(logger: logger) { connection in
                try await insert(order, on: connection)
                try await message.save(on: connection, logger: logger)
                try await takeStock(for: order, on: connection)
            }
        } catch let error as PostgresTransactionError {
            throw error.closureError ?? error
        }
        return message.id
    }

    private func insert(_ order: Order, on connection: PostgresConnection) async throws {
        try await connection.query(
            """
            INSERT INTO orders (number, customer, item, quantity)
            VALUES (\(order.number), \(order.customer), \(order.item), \(order.quantity))
            """,
            logger: logger
        )
    }

    private func takeStock(for order: Order, on connection: PostgresConnection) async throws {
        let taken = try await connection.query(
            """
            UPDATE stock SET available = available - \(order.quantity)
            WHERE item = \(order.item) AND available >= \(order.quantity) RETURNING available
            """,
            logger: logger
        )
        guard try await taken.collect().count == 1 else {
            throw OutOfStock(item: order.item)
        }
    }

    private func json(_ value: some Encodable) throws -> String {
        String(decoding: try JSONEncoder().encode(value), as: UTF8.self)
    }
}
