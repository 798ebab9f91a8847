import 'dart:io';

import 'package:orders/order_service.dart';
import 'package:postgres/postgres.dart';
import 'package:uuid/uuid.dart';

/// Places two orders: one that commits with its event, and one that is rolled back.
Future<void> main(List<String> arguments) async {
  if (arguments.length != 2) {
    stderr.writeln('usage: orders NUMBER CUSTOMER');
    exit(2);
  }
  final number = int.parse(arguments[0]);
  final customer = arguments[1];
  final environment = Platform.environment;
  final request = Request(
    correlationId: const Uuid().v4(),
    traceparent: environment['TRACEPARENT'] ?? '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
  );

  final connection = await Connection.openFromUrl(environment['DATABASE_URL']!);
  try {
    final service = OrderService(connection, environment['TOPIC'] ?? 'orders');
    for (final order in [
      Order(number, customer, 'lamp', 1),
      Order(number + 1, customer, 'lamp', 1000),
    ]) {
      try {
        final event = await service.place(order, request);
        print('order ${order.number} placed, event $event');
      } on OutOfStock catch (refusal) {
        print('order ${order.number} rolled back: $refusal');
      }
    }
  } finally {
    await connection.close();
  }
}
