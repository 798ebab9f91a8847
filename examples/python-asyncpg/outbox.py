"""The row that becomes a record."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

from asyncpg import Connection

_INSERT = """
    INSERT INTO outbox.messages (id, topic, key, payload, event_type, headers, correlation_id, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


@dataclass(frozen=True, kw_only=True)
class OutboxMessage:
    topic: str
    payload: str  # JSON text; sent as these very bytes
    event_type: str
    key: str | None = None  # order holds within a key; None spreads
    headers: dict[str, str] = field(default_factory=dict)
    correlation_id: str | None = None
    id: UUID = field(default_factory=uuid4)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def save(self, connection: Connection) -> None:
        """To be called inside of the transaction that changes the data."""
        await connection.execute(
            _INSERT,
            self.id,
            self.topic,
            self.key,
            self.payload,
            self.event_type,
            json.dumps(self.headers),
            self.correlation_id,
            self.created_at,
        )
