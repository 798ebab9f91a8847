// Places two orders: one that commits with its event, and one that is rolled back.
import { randomUUID } from "node:crypto";
import pg from "pg";
import { type Order, OutOfStock, placeOrder } from "./shop.js";

const [number, customer] = process.argv.slice(2);
if (!Number.isInteger(Number(number)) || customer === undefined) {
  console.error("usage: npm start -- NUMBER CUSTOMER");
  process.exit(2);
}

const topic = process.env.TOPIC ?? "orders";
const request = {
  correlationId: randomUUID(),
  traceparent: process.env.TRACEPARENT ?? "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
};
const orders: Order[] = [
  { number: Number(number), customer, item: "lamp", quantity: 1 },
  { number: Number(number) + 1, customer, item: "lamp", quantity: 1000 },
];

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
try {
  for (const order of orders) {
    try {
      const event = await placeOrder(pool, topic, order, request);
      console.log(`order ${order.number} placed, event ${event}`);
    } catch (error) {
      if (!(error instanceof OutOfStock)) throw error;
      console.log(`order ${order.number} rolled back: ${error.message}`);
    }
  }
} finally {
  await pool.end();
}
