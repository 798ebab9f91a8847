"""Events of a shop, as odd as real ones get, and the use cases that publish them."""

import asyncio
import os
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import override
from uuid import UUID, uuid4

from pydantic import BaseModel
from spakky.core.common.mutability import immutable, mutable
from spakky.core.pod.annotations.pod import Pod
from spakky.core.pod.annotations.primary import Primary
from spakky.core.stereotype.usecase import UseCase
from spakky.data.aspects.transactional import Transactional
from spakky.data.persistency.aggregate_collector import AggregateCollector
from spakky.domain.models.aggregate_root import AbstractAggregateRoot
from spakky.domain.models.event import AbstractDomainEvent, AbstractIntegrationEvent
from spakky.event.event_publisher import IAsyncEventPublisher, IEventPublisher
from spakky.event.stereotype.event_handler import EventHandler, on_event
from spakky.tracing.context import TraceContext
from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.w3c_propagator import W3CTracePropagator

PREFIX = os.environ["PREFIX"]
TEXTS = [
    "",
    " ",
    "plain",
    "Åsa \"Ace\" O'Hara",
    "주문 완료 ✅ 🇰🇷",
    "tab\tline\nreturn\r\u2028\u00a0end",
    "\\x00 \\u0041 {\"not\": \"parsed\"}",
    "e\u0301 \U0001f469\u200d\U0001f680",
    "\ufeffmark",
    "\x01\x1f\x7f\x80",
]


class Topic:
    """Keeps the topics of several runs on one broker apart."""

    @property
    def event_name(self) -> str:
        return PREFIX + type(self).__name__


class Status(StrEnum):
    OPEN = "öffen"
    PAID = "paid"


class Line(BaseModel):
    item: str
    price: Decimal
    tags: list[str] = []


@dataclass
class Address:
    street: str
    coordinates: tuple[float, float] | None = None


@immutable
class OrderPlaced(Topic, AbstractIntegrationEvent):
    """Without a key, and with a field of every kind."""

    number: int
    customer: str
    lines: list[Line] = field(default_factory=list)
    address: Address | None = None
    status: Status = Status.OPEN
    total: Decimal = Decimal("0.00")
    due: date | None = None
    at: datetime | None = None
    window: timedelta = timedelta(0)
    ratio: float = 0.0
    reference: UUID | None = None
    more: dict[str, int | str | None] = field(default_factory=dict)


@immutable
class StockMoved(Topic, AbstractIntegrationEvent):
    """With a key, in the versions of spakky that know keys."""

    item: str
    quantity: int

    @property
    def partition_key(self) -> str | None:
        return self.item


@immutable
class Recounted(Topic, AbstractIntegrationEvent):
    """With an empty key, which one transport sends anywhere, like none, and the other to the partition of its hash."""

    @property
    def partition_key(self) -> str | None:
        return ""


@immutable
class Ping(Topic, AbstractIntegrationEvent):
    """Nothing but what every event has."""


@immutable
class CartClosed(AbstractDomainEvent):
    """Stays inside; a handler makes integration events of it."""

    item: str


@mutable
class Cart(AbstractAggregateRoot[UUID]):
    @classmethod
    @override
    def next_id(cls) -> UUID:
        return uuid4()

    @override
    def validate(self) -> None:
        return

    def close(self, item: str) -> None:
        self.add_event(CartClosed(item=item))


BAGGAGE: dict[str, str] = {}


@Primary()
@Pod()
class Propagator(ITracePropagator):
    """The trace's header and others beside it."""

    def __init__(self) -> None:
        self._w3c = W3CTracePropagator()

    @override
    def inject(self, carrier: dict[str, str]) -> None:
        self._w3c.inject(carrier)
        carrier.update(BAGGAGE)

    @override
    def extract(self, carrier: dict[str, str]) -> TraceContext | None:
        return self._w3c.extract(carrier)

    @override
    def fields(self) -> list[str]:
        return self._w3c.fields()


@UseCase()
class Publish:
    """Each call is a transaction."""

    def __init__(self, publisher: IEventPublisher, collector: AggregateCollector) -> None:
        self._publisher = publisher
        self._collector = collector

    @Transactional()
    def all_of(self, events: list[AbstractIntegrationEvent]) -> None:
        for event in events:
            self._publisher.publish(event)

    @Transactional()
    def and_fail(self, events: list[AbstractIntegrationEvent]) -> None:
        for event in events:
            self._publisher.publish(event)
        raise LookupError("taken back")

    @Transactional()
    def close_cart(self, items: list[str]) -> None:
        cart = Cart(uid=Cart.next_id())
        for item in items:
            cart.close(item)
        self._collector.collect(cart)


@UseCase()
class PublishAsync:
    def __init__(self, publisher: IAsyncEventPublisher) -> None:
        self._publisher = publisher

    @Transactional()
    async def all_of(self, events: list[AbstractIntegrationEvent]) -> None:
        for event in events:
            await self._publisher.publish(event)


@EventHandler()
class OnCartClosed:
    """Called in the transaction of the aggregate by 6.5, and after it by 8.5."""

    within = not hasattr(AbstractIntegrationEvent, "partition_key")

    def __init__(self, publisher: IEventPublisher, publish: Publish) -> None:
        self._publisher = publisher
        self._publish = publish

    @on_event(CartClosed)
    def handle(self, event: CartClosed) -> None:
        events = [StockMoved(item=event.item, quantity=-1), Ping()]
        if self.within:
            for event in events:
                self._publisher.publish(event)
        else:
            self._publish.all_of(events)


PODS = [Propagator, OnCartClosed, Publish, PublishAsync]


def order(number: int, text: str) -> OrderPlaced:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    return OrderPlaced(
        number=number,
        customer=text,
        lines=[Line(item=text, price=Decimal("12345678901234567890.10"), tags=[text, ""])] * (number % 3),
        address=Address(text, (51.5, -0.1)) if number % 2 else None,
        status=Status.PAID if number % 5 else Status.OPEN,
        total=Decimal(number) / 8,
        due=date(2026, 2, 1 + number % 28),
        at=(moment + timedelta(seconds=number)).astimezone(timezone(timedelta(hours=9))),
        window=timedelta(days=number, milliseconds=1),
        ratio=number / 7,
        reference=UUID(int=number),
        more={text: 2**62, "empty": "", "null": None},
    )


def publish_all(container) -> None:
    publish, publish_async = container.get(Publish), container.get(PublishAsync)
    for number, text in enumerate(TEXTS):
        BAGGAGE.clear()
        publish.all_of([order(number, text)])
        TraceContext.set(TraceContext.new_root())
        publish.all_of([order(number, text), Ping(), StockMoved(item=text or "empty", quantity=number), Recounted()])
        BAGGAGE.update({"baggage": f"user={text},empty=", text: "of an odd name", "x-empty": ""})
        publish.all_of([order(number, text), StockMoved(item=text * 9 or "empty", quantity=2**40)])
        asyncio.run(publish_async.all_of([order(number, text), StockMoved(item="async", quantity=number)]))
    try:
        publish.and_fail([Ping(), order(0, "rolled back"), StockMoved(item="rolled back", quantity=0)])
    except LookupError:
        pass
    publish.close_cart(["lamp", "chair", "plant"])
    publish.all_of([StockMoved(item=f"item-{number % 37}", quantity=number) for number in range(150)])
    publish.all_of([order(number, TEXTS[number % len(TEXTS)]) for number in range(60)])
    publish.all_of([order(1, "long " * 20_000)])
