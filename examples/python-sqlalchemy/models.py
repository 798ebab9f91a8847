"""The tables, and the row that becomes a record."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, DateTime, Text
from sqlalchemy.dialects.postgresql import JSON, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    customer: Mapped[str] = mapped_column(Text)
    item: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int]


class Stock(Base):
    __tablename__ = "stock"

    item: Mapped[str] = mapped_column(Text, primary_key=True)
    available: Mapped[int]


class OutboxMessage(Base):
    __tablename__ = "messages"
    __table_args__ = {"schema": "outbox"}

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    topic: Mapped[str] = mapped_column(Text)
    key: Mapped[str | None] = mapped_column(Text)  # order holds within a key; None spreads
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    event_type: Mapped[str] = mapped_column(Text)
    headers: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict)
    correlation_id: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))
