import 'package:postgres/postgres.dart';

/// The row that becomes a record.
class OutboxMessage {
  const OutboxMessage({
    required this.id,
    required this.topic,
    required this.payload,
    required this.eventType,
    required this.createdAt,
    this.key,
    this.headers = const {},
    this.correlationId,
  });

  final String id;
  final String topic;

  /// Order holds within a key; null spreads.
  final String? key;
  final Map<String, Object?> payload;
  final String eventType;
  final Map<String, String> headers;
  final String? correlationId;
  final DateTime createdAt;

  // The driver encodes what is declared as json and jsonb.
  static final _insert = Sql.named('''
    INSERT INTO outbox.messages (id, topic, key, payload, event_type, headers, correlation_id, created_at)
    VALUES (@id:uuid, @topic:text, @key:text, @payload:json, @event_type:text, @headers:jsonb,
      @correlation_id:text, @created_at:timestamptz)
  ''');

  /// To be called inside of the transaction that changes the data.
  Future<void> save(TxSession transaction) async {
    await transaction.execute(_insert, parameters: {
      'id': id,
      'topic': topic,
      'key': key,
      'payload': payload,
      'event_type': eventType,
      'headers': headers,
      'correlation_id': correlationId,
      'created_at': createdAt,
    });
  }
}
