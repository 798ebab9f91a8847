package shop;

import java.sql.SQLException;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.postgresql.ds.PGSimpleDataSource;

/** Places two orders: one that commits with its event, and one that is rolled back. */
public class Main {
    public static void main(String[] args) throws SQLException {
        if (args.length != 2) {
            System.err.println("usage: shop.Main NUMBER CUSTOMER");
            System.exit(2);
        }
        long number = Long.parseLong(args[0]);
        String customer = args[1];

        Map<String, String> environment = System.getenv();
        PGSimpleDataSource database = new PGSimpleDataSource();
        database.setUrl(environment.get("DATABASE_URL"));
        OrderService service = new OrderService(database, environment.getOrDefault("TOPIC", "orders"));
        Request request = new Request(
                UUID.randomUUID().toString(),
                environment.getOrDefault("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));

        List<Order> orders =
                List.of(new Order(number, customer, "lamp", 1), new Order(number + 1, customer, "lamp", 1000));
        for (Order order : orders) {
            try {
                UUID event = service.place(order, request);
                System.out.printf("order %d placed, event %s%n", order.number(), event);
            } catch (OutOfStockException refusal) {
                System.out.printf("order %d rolled back: %s%n", order.number(), refusal.getMessage());
            }
        }
    }
}
