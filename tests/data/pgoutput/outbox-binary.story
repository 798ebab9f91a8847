begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, event_type 25, headers 3802, correlation_id 25, created_at 1184
  insert outbox.messages: b 00000000000040008000000000000001 | b 'orders' | b 'order-1' | b '{"total": 12.50, "name": "Łódź 🚲"}' | b 'order.placed' | b 017b227472616365706172656e74223a202230302d6162632d6465662d3031227d | b 'corr-1' | b 0002b58341728614
commit
begin
  insert outbox.messages: b 00000000000040008000000000000002 | b 'orders' | null | null | null | b 017b7d | null | b 0002b58cd363c000
  insert outbox.messages: b 00000000000040008000000000000003 | b 'ключ' | b '' | b '[]' | b '' | b 017b7d | b '' | b ffffffffffffffff
commit
begin
  insert outbox.messages: b 00000000000040008000000000000004 | b 'big' | b 'k' | b "012…789" (20002 bytes) | null | b 017b7d | null | b 0002b58cd363c000
commit
begin
  message to 'inside': 'with the commit'
commit
message on its own to 'outside': 00ff01
message on its own to '': ''
begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, event_type 25, headers 3802, correlation_id 25, created_at 1184, tenant 23
  insert outbox.messages: b 00000000000040008000000000000005 | b 'orders' | b 'k' | b '1' | null | b 017b7d | null | b 0002b58cd363c000 | b 00000007
commit
begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, event_type 25, headers 3802, correlation_id 25, created_at 1184, client 23
  insert outbox.messages: b 00000000000040008000000000000006 | b 'orders' | b 'k' | b '2' | null | b 017b7d | null | b 0002b58cd363c000 | b 00000008
commit
begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, headers 3802, correlation_id 25, created_at 1184, client 23
  insert outbox.messages: b 00000000000040008000000000000007 | b 'orders' | b 'k' | b '3' | b 017b7d | null | b 0002b58cd363c000 | b 00000009
commit
begin
  origin walpost_capture A/B0
  insert outbox.messages: b 00000000000040008000000000000008 | b 'orders' | b 'k' | b '4' | b 017b7d | null | b 0002b58cd363c000 | b 0000000a
commit
