package shop;

/** What came with the call and goes on with the event. */
record Request(String correlationId, String traceparent) {}
