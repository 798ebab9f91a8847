//! Places two orders: one that commits with its event, and one that is rolled back.

mod outbox;
mod shop;

use std::env;
use std::error::Error;

use sqlx::PgPool;
use uuid::Uuid;

use shop::{Order, Request, place_order};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (Some(number), Some(customer)) = (args.next(), args.next()) else {
        return Err("usage: orders-sqlx NUMBER CUSTOMER".into());
    };
    let number: i64 = number.parse()?;
    let topic = env::var("TOPIC").unwrap_or_else(|_| "orders".to_owned());
    let pool = PgPool::connect(&env::var("DATABASE_URL")?).await?;

    let request = Request {
        correlation_id: Uuid::new_v4().to_string(),
        traceparent: env::var("TRACEPARENT")
            .unwrap_or_else(|_| "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
    };
    let small = Order { number, customer: customer.clone(), item: "lamp".to_owned(), quantity: 1 };
    let large = Order { number: number + 1, customer, item: "lamp".to_owned(), quantity: 1000 };
    for order in [small, large] {
        match place_order(&pool, &topic, &order, &request).await {
            Ok(event) => println!("order {} placed, event {event}", order.number),
            Err(shop::Error::OutOfStock(item)) => {
                println!("order {} rolled back: not enough of {item}", order.number);
            }
            Err(error) => return Err(error.into()),
        }
    }
    pool.close().await;
    Ok(())
}
