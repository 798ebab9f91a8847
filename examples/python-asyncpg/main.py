"""Places two orders: one that commits with its event, and one that is rolled back."""

import asyncio
import os
import sys
from uuid import uuid4

import asyncpg

from shop import Order, OutOfStock, Request, place_order


async def main(number: int, customer: str) -> None:
    topic = os.environ.get("TOPIC", "orders")
    request = Request(
        correlation_id=str(uuid4()),
        traceparent=os.environ.get("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    )
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    try:
        for order in (Order(number, customer, "lamp", 1), Order(number + 1, customer, "lamp", 1000)):
            try:
                event = await place_order(connection, topic, order, request)
                print(f"order {order.number} placed, event {event}")
            except OutOfStock as refusal:
                print(f"order {order.number} rolled back: {refusal}")
    finally:
        await connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: main.py NUMBER CUSTOMER")
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
