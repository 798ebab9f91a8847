package shop;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Map;
import java.util.UUID;
import javax.sql.DataSource;

class OrderService {
    private static final ObjectMapper JSON = new ObjectMapper();

    private static final String INSERT_ORDER =
            "INSERT INTO orders (number, customer, item, quantity) VALUES (?, ?, ?, ?)";
    private static final String TAKE_STOCK =
            "UPDATE stock SET available = available - ? WHERE item = ? AND available >= ?";

    private final DataSource database;
    private final String topic;

    OrderService(DataSource database, String topic) {
        this.database = database;
        this.topic = topic;
    }

    /** The order and its event, or neither. Returns the id of the event. */
    UUID place(Order order, Request request) throws SQLException, OutOfStockException {
        OutboxMessage message = orderPlaced(order, request);
        try (Connection connection = database.getConnection()) {
            connection.setAutoCommit(false);
            try {
                insert(connection, order);
                message.save(connection);
                takeStock(connection, order);
                connection.commit();
            } catch (SQLException | OutOfStockException | RuntimeException failure) {
                connection.rollback();
                throw failure;
            }
        }
        return message.id();
    }

    private OutboxMessage orderPlaced(Order order, Request request) {
        return new OutboxMessage(
                UUID.randomUUID(),
                topic,
                order.customer(),
                json(order),
                "OrderPlaced",
                json(Map.of("traceparent", request.traceparent())),
                request.correlationId(),
                OffsetDateTime.now(ZoneOffset.UTC));
    }

    private static void insert(Connection connection, Order order) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(INSERT_ORDER)) {
            statement.setLong(1, order.number());
            statement.setString(2, order.customer());
            statement.setString(3, order.item());
            statement.setInt(4, order.quantity());
            statement.executeUpdate();
        }
    }

    private static void takeStock(Connection connection, Order order) throws SQLException, OutOfStockException {
        try (PreparedStatement statement = connection.prepareStatement(TAKE_STOCK)) {
            statement.setInt(1, order.quantity());
            statement.setString(2, order.item());
            statement.setInt(3, order.quantity());
            if (statement.executeUpdate() == 0) {
                throw new OutOfStockException(order.item());
            }
        }
    }

    private static String json(Object value) {
        try {
            return JSON.writeValueAsString(value);
        } catch (JsonProcessingException impossible) {
            throw new IllegalStateException(impossible);
        }
    }
}
