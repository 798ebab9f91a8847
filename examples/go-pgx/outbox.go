package main

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// OutboxMessage is the row that becomes a record.
type OutboxMessage struct {
	ID            uuid.UUID
	Topic         string
	Key           *string // order holds within a key; nil spreads
	Payload       []byte  // JSON text; sent as these very bytes
	EventType     string
	Headers       map[string]string
	CorrelationID *string
	CreatedAt     time.Time
}

const insertMessage = `
	INSERT INTO outbox.messages (id, topic, key, payload, event_type, headers, correlation_id, created_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

// Save belongs inside of the transaction that changes the data.
func (m *OutboxMessage) Save(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, insertMessage,
		m.ID, m.Topic, m.Key, m.Payload, m.EventType, m.Headers, m.CorrelationID, m.CreatedAt)
	return err
}
