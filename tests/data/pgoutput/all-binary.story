begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, event_type 25, headers 3802, correlation_id 25, created_at 1184
  insert outbox.messages: b 00000000000040008000000000000001 | b 'orders' | b 'order-1' | b '{"total": 12.50, "name": "Łódź 🚲"}' | b 'order.placed' | b 017b227472616365706172656e74223a202230302d6162632d6465662d3031227d | b 'corr-1' | b 0002b58341728614
commit
begin
  insert outbox.messages: b 00000000000040008000000000000002 | b 'orders' | null | null | null | b 017b7d | null | b 0002b58cd363c000
  insert outbox.messages: b 00000000000040008000000000000003 | b 'ключ' | b '' | b '[]' | b '' | b 017b7d | b '' | b ffffffffffffffff
  delete outbox.messages: key b 00000000000040008000000000000003 | null | null | null | null | null | null | null
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
  type shop.mood
  type .int4
  relation shop.things, identity Default: *id 23, mood shop.mood, amount .int4, note 1043(44), body 25
  insert shop.things: b 00000001 | b 'calm' | b 00000005 | b 'first' | b xxxx…xxxx (3000 bytes)
commit
begin
  update shop.things: b 00000001 | b 'calm' | b 00000005 | b 'second' | unchanged
commit
begin
  update shop.things: key b 00000001 | null | null | null | null => b 00000002 | b 'wild' | b 00000005 | b 'second' | unchanged
commit
begin
  delete shop.things: key b 00000002 | null | null | null | null
commit
begin
  relation shop.whole, identity Full: *id 23, *word 25
  insert shop.whole: b 00000001 | b 'old'
  insert shop.whole: b 00000002 | null
commit
begin
  update shop.whole: full b 00000001 | b 'old' => b 00000001 | b 'new'
commit
begin
  delete shop.whole: full b 00000002 | null
commit
begin
  relation shop.indexed, identity Index: id 23, *code 25
  insert shop.indexed: b 00000001 | b 'a'
commit
begin
  update shop.indexed: key null | b 'a' => b 00000001 | b 'b'
commit
begin
  delete shop.indexed: key null | b 'b'
commit
begin
  relation shop.nothing, identity Nothing: id 23
  insert shop.nothing: b 00000001
commit
begin
  relation shop.parts, identity Default: *id 23, *year 23
  relation shop.parts_old, identity Default: *id 23, *year 23
  insert shop.parts: b 00000001 | b 000007da
  relation shop.parts, identity Default: *id 23, *year 23
  relation shop.parts_new, identity Default: *id 23, *year 23
  insert shop.parts: b 00000002 | b 000007ee
commit
begin
  type shop.mood
  type .int4
  relation shop.things, identity Default: *id 23, mood shop.mood, amount .int4, note 1043(44), body 25
  relation shop.whole, identity Full: *id 23, *word 25
  truncate shop.things and shop.whole, cascade, restart identity
commit
begin
  relation shop.nothing, identity Nothing: id 23
  truncate shop.nothing
commit
begin
  origin walpost_capture A/B0
  insert outbox.messages: b 00000000000040008000000000000008 | b 'orders' | b 'k' | b '4' | b 017b7d | null | b 0002b58cd363c000 | b 0000000a
commit
