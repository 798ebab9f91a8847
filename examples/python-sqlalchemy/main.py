"""Places two orders: one that commits with its event, and one that is rolled back."""

import os
import sys
from uuid import uuid4

from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import sessionmaker

from models import Order
from shop import OutOfStock, Request, place_order


def main(number: int, customer: str) -> None:
    topic = os.environ.get("TOPIC", "orders")
    request = Request(
        correlation_id=str(uuid4()),
        traceparent=os.environ.get("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    )
    engine = create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"))
    sessions = sessionmaker(engine)
    for number, quantity in ((number, 1), (number + 1, 1000)):
        order = Order(number=number, customer=customer, item="lamp", quantity=quantity)
        try:
            event = place_order(sessions, topic, order, request)
            print(f"order {number} placed, event {event}")
        except OutOfStock as refusal:
            print(f"order {number} rolled back: {refusal}")
    engine.dispose()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: main.py NUMBER CUSTOMER")
    main(int(sys.argv[1]), sys.argv[2])
