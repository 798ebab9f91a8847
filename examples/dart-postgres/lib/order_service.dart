import 'package:postgres/postgres.dart';
import 'package:uuid/uuid.dart';

import 'outbox_message.dart';

class Order {
  const Order(this.number, this.customer, this.item, this.quantity);

  final int number;
  final String customer;
  final String item;
  final int quantity;

  Map<String, Object?> toJson() => {
        'order': number,
        'customer': customer,
        'item': item,
        'quantity': quantity,
      };
}

/// What came with the call and goes on with the event.
class Request {
  const Request({required this.correlationId, required this.traceparent});

  final String correlationId;
  final String traceparent;
}

class OutOfStock implements Exception {
  const OutOfStock(this.item);

  final String item;

  @override
  String toString() => 'not enough of $item';
}

class OrderService {
  const OrderService(this._connection, this._topic);

  final Connection _connection;
  final String _topic;

  static final _insertOrder = Sql.named('''
    INSERT INTO orders (number, customer, item, quantity)
    VALUES (@number:int8, @customer:text, @item:text, @quantity:int4)
  ''');
  static final _takeStock = Sql.named('''
    UPDATE stock SET available = available - @quantity:int4
    WHERE item = @item:text AND available >= @quantity:int4
  ''');

  /// The order and its event, or neither. Gives the id of the event.
  Future<String> place(Order order, Request request) {
    // An exception that leaves the closure rolls back.
    return _connection.runTx((transaction) async {
      await transaction.execute(_insertOrder, parameters: {
        'number': order.number,
        'customer': order.customer,
        'item': order.item,
        'quantity': order.quantity,
      });

      final message = OutboxMessage(
        id: const Uuid().v4(),
        topic: _topic,
        key: order.customer,
        payload: order.toJson(),
        eventType: 'OrderPlaced',
        headers: {'traceparent': request.traceparent},
        correlationId: request.correlationId,
        createdAt: DateTime.now().toUtc(),
      );
      await message.save(transaction);

      final taken = await transaction.execute(_takeStock, parameters: {
        'quantity': order.quantity,
        'item': order.item,
      });
      if (taken.affectedRows == 0) throw OutOfStock(order.item);
      return message.id;
    });
  }
}
