begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, event_type 25, headers 3802, correlation_id 25, created_at 1184
  insert outbox.messages: t '00000000-0000-4000-8000-000000000001' | t 'orders' | t 'order-1' | t '{"total": 12.50, "name": "Łódź 🚲"}' | t 'order.placed' | t '{"traceparent": "00-abc-def-01"}' | t 'corr-1' | t '2024-02-29 12:34:56.789012+00'
commit
begin
  insert outbox.messages: t '00000000-0000-4000-8000-000000000002' | t 'orders' | null | null | null | t '{}' | null | t '2024-03-01 00:00:00+00'
  insert outbox.messages: t '00000000-0000-4000-8000-000000000003' | t 'ключ' | t '' | t '[]' | t '' | t '{}' | t '' | t '1999-12-31 23:59:59.999999+00'
  delete outbox.messages: key t '00000000-0000-4000-8000-000000000003' | null | null | null | null | null | null | null
commit
begin
  insert outbox.messages: t '00000000-0000-4000-8000-000000000004' | t 'big' | t 'k' | t "012…789" (20002 bytes) | null | t '{}' | null | t '2024-03-01 00:00:00+00'
commit
begin
  message to 'inside': 'with the commit'
commit
message on its own to 'outside': 00ff01
message on its own to '': ''
begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, event_type 25, headers 3802, correlation_id 25, created_at 1184, tenant 23
  insert outbox.messages: t '00000000-0000-4000-8000-000000000005' | t 'orders' | t 'k' | t '1' | null | t '{}' | null | t '2024-03-01 00:00:00+00' | t '7'
commit
begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, event_type 25, headers 3802, correlation_id 25, created_at 1184, client 23
  insert outbox.messages: t '00000000-0000-4000-8000-000000000006' | t 'orders' | t 'k' | t '2' | null | t '{}' | null | t '2024-03-01 00:00:00+00' | t '8'
commit
begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, headers 3802, correlation_id 25, created_at 1184, client 23
  insert outbox.messages: t '00000000-0000-4000-8000-000000000007' | t 'orders' | t 'k' | t '3' | t '{}' | null | t '2024-03-01 00:00:00+00' | t '9'
commit
begin
  type shop.mood
  type .int4
  relation shop.things, identity Default: *id 23, mood shop.mood, amount .int4, note 1043(44), body 25
  insert shop.things: t '1' | t 'calm' | t '5' | t 'first' | t xxxx…xxxx (3000 bytes)
commit
begin
  update shop.things: t '1' | t 'calm' | t '5' | t 'second' | unchanged
commit
begin
  update shop.things: key t '1' | null | null | null | null => t '2' | t 'wild' | t '5' | t 'second' | unchanged
commit
begin
  delete shop.things: key t '2' | null | null | null | null
commit
begin
  relation shop.whole, identity Full: *id 23, *word 25
  insert shop.whole: t '1' | t 'old'
  insert shop.whole: t '2' | null
commit
begin
  update shop.whole: full t '1' | t 'old' => t '1' | t 'new'
commit
begin
  delete shop.whole: full t '2' | null
commit
begin
  relation shop.indexed, identity Index: id 23, *code 25
  insert shop.indexed: t '1' | t 'a'
commit
begin
  update shop.indexed: key null | t 'a' => t '1' | t 'b'
commit
begin
  delete shop.indexed: key null | t 'b'
commit
begin
  relation shop.nothing, identity Nothing: id 23
  insert shop.nothing: t '1'
commit
begin
  relation shop.parts, identity Default: *id 23, *year 23
  relation shop.parts_old, identity Default: *id 23, *year 23
  insert shop.parts: t '1' | t '2010'
  relation shop.parts, identity Default: *id 23, *year 23
  relation shop.parts_new, identity Default: *id 23, *year 23
  insert shop.parts: t '2' | t '2030'
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
  insert outbox.messages: t '00000000-0000-4000-8000-000000000008' | t 'orders' | t 'k' | t '4' | t '{}' | null | t '2024-03-01 00:00:00+00' | t '10'
commit
