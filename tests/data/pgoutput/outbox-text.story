begin
  relation outbox.messages, identity Default: *id 2950, topic 25, key 25, payload 114, event_type 25, headers 3802, correlation_id 25, created_at 1184
  insert outbox.messages: t '00000000-0000-4000-8000-000000000001' | t 'orders' | t 'order-1' | t '{"total": 12.50, "name": "Łódź 🚲"}' | t 'order.placed' | t '{"traceparent": "00-abc-def-01"}' | t 'corr-1' | t '2024-02-29 12:34:56.789012+00'
commit
begin
  insert outbox.messages: t '00000000-0000-4000-8000-000000000002' | t 'orders' | null | null | null | t '{}' | null | t '2024-03-01 00:00:00+00'
  insert outbox.messages: t '00000000-0000-4000-8000-000000000003' | t 'ключ' | t '' | t '[]' | t '' | t '{}' | t '' | t '1999-12-31 23:59:59.999999+00'
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
  origin walpost_capture A/B0
  insert outbox.messages: t '00000000-0000-4000-8000-000000000008' | t 'orders' | t 'k' | t '4' | t '{}' | null | t '2024-03-01 00:00:00+00' | t '10'
commit
