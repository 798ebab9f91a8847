package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Order is what a customer wants.
type Order struct {
	Number   int64  `json:"order"`
	Customer string `json:"customer"`
	Item     string `json:"item"`
	Quantity int32  `json:"quantity"`
}

// Request is what came with the call and goes on with the event.
type Request struct {
	CorrelationID string
	Traceparent   string
}

// ErrOutOfStock says that there is less of an item than was ordered.
var ErrOutOfStock = errors.New("out of stock")

const (
	insertOrder = `INSERT INTO orders (number, customer, item, quantity) VALUES ($1, $2, $3, $4)`
	takeStock   = `UPDATE stock SET available = available - $1 WHERE item = $2 AND available >= $1`
)

// PlaceOrder commits the order and its event, or neither. It returns the id of the event.
func PlaceOrder(ctx context.Context, conn *pgx.Conn, topic string, order Order, request Request) (uuid.UUID, error) {
	payload, err := json.Marshal(order)
	if err != nil {
		return uuid.Nil, err
	}
	message := OutboxMessage{
		ID:            uuid.New(),
		Topic:         topic,
		Key:           &order.Customer,
		Payload:       payload,
		EventType:     "OrderPlaced",
		Headers:       map[string]string{"traceparent": request.Traceparent},
		CorrelationID: &request.CorrelationID,
		CreatedAt:     time.Now(),
	}
	// It rolls back when the function returns an error.
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insertOrder, order.Number, order.Customer, order.Item, order.Quantity); err != nil {
			return err
		}
		if err := message.Save(ctx, tx); err != nil {
			return err
		}
		taken, err := tx.Exec(ctx, takeStock, order.Quantity, order.Item)
		if err == nil && taken.RowsAffected() == 0 {
			err = fmt.Errorf("%w: %s", ErrOutOfStock, order.Item)
		}
		return err
	})
	return message.ID, err
}
