// Places two orders: one that commits with its event, and one that is rolled back.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

func main() {
	log.SetFlags(0)
	if err := run(context.Background(), os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: orders NUMBER CUSTOMER")
	}
	number, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)

	topic := cmp.Or(os.Getenv("TOPIC"), "orders")
	request := Request{
		CorrelationID: uuid.NewString(),
		Traceparent:   cmp.Or(os.Getenv("TRACEPARENT"), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
	}
	for _, order := range []Order{
		{Number: number, Customer: args[1], Item: "lamp", Quantity: 1},
		{Number: number + 1, Customer: args[1], Item: "lamp", Quantity: 1000},
	} {
		event, err := PlaceOrder(ctx, conn, topic, order, request)
		switch {
		case errors.Is(err, ErrOutOfStock):
			fmt.Printf("order %d rolled back: not enough of %s\n", order.Number, order.Item)
		case err != nil:
			return err
		default:
			fmt.Printf("order %d placed, event %s\n", order.Number, event)
		}
	}
	return nil
}
