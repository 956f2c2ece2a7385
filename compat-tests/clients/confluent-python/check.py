"""Topics, records and offsets as an application of confluent-kafka meets them."""

import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP = sys.argv[1]
TOPIC = "python-records"
COUNT = 500


def create_topic():
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    for future in admin.create_topics([NewTopic(TOPIC, num_partitions=2)]).values():
        future.result(30)
    assert TOPIC in admin.list_topics(timeout=30).topics
    assert len(admin.list_topics(timeout=30).topics[TOPIC].partitions) == 2


def produce():
    errors = []
    offsets = []

    def delivered(error, message):
        if error is not None:
            errors.append(error)
        else:
            offsets.append(message.offset())

    producer = Producer(
        {"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True, "compression.type": "lz4"}
    )
    for i in range(COUNT):
        producer.produce(
            TOPIC,
            key=f"key-{i}",
            value=f"value-{i}",
            headers=[("number", str(i).encode())],
            partition=1,
            on_delivery=delivered,
        )
    assert producer.flush(60) == 0
    assert not errors, errors
    assert offsets == list(range(COUNT)), offsets[:10]


def consume():
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": "unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
    )
    assert consumer.get_watermark_offsets(TopicPartition(TOPIC, 1), timeout=30) == (0, COUNT)
    start = 7
    consumer.assign([TopicPartition(TOPIC, 1, start)])
    deadline = time.monotonic() + 60
    expected = start
    while expected < COUNT:
        assert time.monotonic() < deadline, f"only {expected} of {COUNT} came"
        message = consumer.poll(1)
        if message is None:
            continue
        assert message.error() is None, message.error()
        assert message.offset() == expected
        assert message.key() == f"key-{expected}".encode()
        assert message.value() == f"value-{expected}".encode()
        assert message.headers() == [("number", str(expected).encode())]
        expected += 1
    consumer.close()


for step in (create_topic, produce, consume):
    step()
    print(f"ok {step.__name__}")
