"""The order service."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from models import Order, OutboxMessage, Stock


@dataclass(frozen=True)
class Request:
    """What came with the call and goes on with the event."""

    correlation_id: str
    traceparent: str


class OutOfStock(Exception):
    def __init__(self, item: str) -> None:
        super().__init__(f"not enough of {item}")


def place_order(sessions: sessionmaker[Session], topic: str, order: Order, request: Request) -> UUID:
    """The order and its event, or neither. Returns the id of the event."""
    number, customer, item, quantity = order.number, order.customer, order.item, order.quantity
    event = uuid4()
    # An exception that leaves the block rolls back.
    with sessions.begin() as session:
        session.add(order)
        session.add(
            OutboxMessage(
                id=event,
                topic=topic,
                key=customer,
                payload={"order": number, "customer": customer, "item": item, "quantity": quantity},
                event_type="OrderPlaced",
                headers={"traceparent": request.traceparent},
                correlation_id=request.correlation_id,
            )
        )
        session.flush()
        taken = session.execute(
            update(Stock)
            .where(Stock.item == item, Stock.available >= quantity)
            .values(available=Stock.available - quantity)
        )
        if taken.rowcount == 0:
            raise OutOfStock(item)
    return event
