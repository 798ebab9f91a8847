"""The order service."""

import json
from dataclasses import dataclass
from uuid import UUID

from asyncpg import Connection

from outbox import OutboxMessage


@dataclass(frozen=True)
class Order:
    number: int
    customer: str
    item: str
    quantity: int


@dataclass(frozen=True)
class Request:
    """What came with the call and goes on with the event."""

    correlation_id: str
    traceparent: str


class OutOfStock(Exception):
    def __init__(self, item: str) -> None:
        super().__init__(f"not enough of {item}")


async def place_order(connection: Connection, topic: str, order: Order, request: Request) -> UUID:
    """The order and its event, or neither. Returns the id of the event."""
    # An exception that leaves the block rolls back.
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO orders (number, customer, item, quantity) VALUES ($1, $2, $3, $4)",
            order.number,
            order.customer,
            order.item,
            order.quantity,
        )
        message = OutboxMessage(
            topic=topic,
            key=order.customer,
            payload=json.dumps(
                {
                    "order": order.number,
                    "customer": order.customer,
                    "item": order.item,
                    "quantity": order.quantity,
                }
            ),
            event_type="OrderPlaced",
            headers={"traceparent": request.traceparent},
            correlation_id=request.correlation_id,
        )
        await message.save(connection)

        taken = await connection.execute(
            "UPDATE stock SET available = available - $1 WHERE item = $2 AND available >= $1",
            order.quantity,
            order.item,
        )
        if taken == "UPDATE 0":
            raise OutOfStock(order.item)
    return message.id
