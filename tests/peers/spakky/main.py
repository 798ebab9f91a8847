"""A service built on spakky, whose outbox tests/it/peers/ reads with Walpost and with spakky's own relay.

    main.py tables          makes spakky's table
    main.py write           publishes the corpus through spakky's API, with the relay switched off
    main.py relay sync      runs spakky's relay over the rows, with one of its two transports, until it is ended
    main.py relay async

Read from the environment: DATABASE_URL, BROKERS, and PREFIX, which all topics begin with.
"""

import os
import sys
import time

os.environ.update(
    SPAKKY_SQLALCHEMY__CONNECTION_STRING=os.environ["DATABASE_URL"],
    SPAKKY_KAFKA__BOOTSTRAP_SERVERS=os.environ["BROKERS"],
    SPAKKY_KAFKA__GROUP_ID="peers",
    SPAKKY_KAFKA__CLIENT_ID="peers",
    SPAKKY_OUTBOX__POLLING_INTERVAL_SECONDS="0.001",
    # The rows of a batch go in whatever order the server returns them from spakky's UPDATE.
    SPAKKY_OUTBOX__BATCH_SIZE="1",
    # Without a try left no row is fetched: that switches the relay off.
    SPAKKY_OUTBOX__MAX_RETRY_COUNT="5" if sys.argv[1] == "relay" else "0",
)

from spakky.core.application.application import SpakkyApplication
from spakky.core.application.application_context import ApplicationContext
from spakky.event.bus.transport_event_bus import AsyncDirectEventBus, DirectEventBus
from spakky.outbox.relay.relay import AsyncOutboxRelayBackgroundService, OutboxRelayBackgroundService
from spakky.plugins.kafka.event.consumer import AsyncKafkaEventConsumer, KafkaEventConsumer
from spakky.plugins.kafka.post_processor import KafkaPostProcessor
from spakky.plugins.sqlalchemy.orm.schema_registry import SchemaRegistry
from spakky.plugins.sqlalchemy.persistency.connection_manager import ConnectionManager

import shop


# This service consumes nothing and has no bus but the outbox; with those in, the container finds two of a kind.
LEFT_OUT = {DirectEventBus, AsyncDirectEventBus, KafkaEventConsumer, AsyncKafkaEventConsumer, KafkaPostProcessor}
# One relay at a time, so that all records come from one transport.
LEFT_OUT.add(OutboxRelayBackgroundService if sys.argv[2:] == ["async"] else AsyncOutboxRelayBackgroundService)


class Application(SpakkyApplication):
    def add(self, obj):
        return self if obj in LEFT_OUT else super().add(obj)


application = Application(ApplicationContext()).load_plugins()
for pod in shop.PODS:
    application.add(pod)
application.start()
container = application.container

match sys.argv[1]:
    case "tables":
        container.get(SchemaRegistry).metadata.create_all(container.get(ConnectionManager).connection)
    case "write":
        shop.publish_all(container)
    case "relay":
        while True:
            time.sleep(60)
application.stop()
