"""Topics, records and offsets as an application of confluent-kafka meets them.

check.py BOOTSTRAP DATA_DIRECTORY
"""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from codecs_on_disk import codecs
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP, DATA = sys.argv[1:3]
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
TOPIC = "python-records"
COUNT = 500
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})


def create(name, **options):
    for future in admin.create_topics([NewTopic(name, **options)]).values():
        future.result(30)


def send(topic, messages, partition=0, **config):
    """Produces all and gives the acknowledged messages; any failure is raised."""
    done, errors = [], []

    def delivered(error, message):
        (errors if error is not None else done).append(error or message)

    producer = Producer({"bootstrap.servers": BOOTSTRAP, "message.max.bytes": 2000000, **config})
    for message in messages:
        producer.produce(topic, partition=partition, on_delivery=delivered, **message)
        producer.poll(0)
    assert producer.flush(60) == 0
    if errors:
        raise KafkaException(errors[0])
    return done


def consumer(**config):
    return Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": "unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.message.max.bytes": 2000000,
            **config,
        }
    )


def read(topic, offset, count, partition=0, **config):
    reader = consumer(**config)
    reader.assign([TopicPartition(topic, partition, offset)])
    deadline = time.monotonic() + 60
    messages = []
    while len(messages) < count:
        assert time.monotonic() < deadline, f"only {len(messages)} of {count} came"
        message = reader.poll(1)
        if message is not None:
            if message.error() is not None:
                raise KafkaException(message.error())
            messages.append(message)
    reader.close()
    return messages


def raises(code, action):
    try:
        action()
    except KafkaException as error:
        assert error.args[0].code() == code, error
    else:
        raise AssertionError(f"no error {code}")


def topics_are_created_and_deleted():
    create(TOPIC, num_partitions=2)
    assert len(admin.list_topics(timeout=30).topics[TOPIC].partitions) == 2
    raises(KafkaError.TOPIC_ALREADY_EXISTS, lambda: create(TOPIC, num_partitions=2))
    raises(KafkaError.TOPIC_EXCEPTION, lambda: create("no/name", num_partitions=1))
    raises(KafkaError.INVALID_PARTITIONS, lambda: create("none", num_partitions=0))
    raises(
        KafkaError.INVALID_CONFIG,
        lambda: create("wrong", num_partitions=1, config={"segment.bytes": "many"}),
    )
    checked = admin.create_topics([NewTopic("checked", 1)], validate_only=True)
    assert checked["checked"].result(30) is None
    create("python-gone", num_partitions=3)
    send("python-gone", [{"value": b"x"}])
    admin.delete_topics(["python-gone"])["python-gone"].result(30)
    raises(
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        lambda: admin.delete_topics(["python-gone"])["python-gone"].result(30),
    )
    names = admin.list_topics(timeout=30).topics
    assert "python-gone" not in names and "checked" not in names, names
    # The same name again is another topic, and empty.
    create("python-gone", num_partitions=1)
    ends = consumer().get_watermark_offsets(TopicPartition("python-gone", 0), timeout=30)
    assert ends == (0, 0), ends


def records_are_deleted_up_to_an_offset():
    name = "python-deleted"
    create(name, num_partitions=1)
    send(name, [{"value": str(i)} for i in range(10)])

    def delete(offset):
        wanted = TopicPartition(name, 0, offset)
        [done] = admin.delete_records([wanted]).values()
        return done.result(30).low_watermark

    assert delete(4) == 4
    assert consumer().get_watermark_offsets(TopicPartition(name, 0), timeout=30) == (4, 10)
    assert [m.value() for m in read(name, 4, 6)] == [str(i).encode() for i in range(4, 10)]
    raises(KafkaError.OFFSET_OUT_OF_RANGE, lambda: delete(11))
    raises(KafkaError._AUTO_OFFSET_RESET, lambda: read(name, 3, 1))
    # Everything.
    assert delete(-1) == 10
    assert send(name, [{"value": b"x"}])[0].offset() == 10


def an_idempotent_producer_is_answered_in_order():
    messages = (
        {"key": f"key-{i}", "value": f"value-{i}", "headers": [("number", str(i).encode())]}
        for i in range(COUNT)
    )
    config = {"enable.idempotence": True, "compression.type": "lz4"}
    done = send(TOPIC, messages, partition=1, **config)
    assert [message.offset() for message in done] == list(range(COUNT))
    # Another run is another producer.
    again = send(TOPIC, [{"value": b"last"}], partition=1, **config)
    assert again[0].offset() == COUNT


def records_are_read_from_an_offset():
    ends = consumer().get_watermark_offsets(TopicPartition(TOPIC, 1), timeout=30)
    assert ends == (0, COUNT + 1), ends
    for expected, message in enumerate(read(TOPIC, 7, COUNT - 7, partition=1), 7):
        assert message.offset() == expected
        assert message.key() == f"key-{expected}".encode()
        assert message.value() == f"value-{expected}".encode()
        assert message.headers() == [("number", str(expected).encode())]
    raises(KafkaError._AUTO_OFFSET_RESET, lambda: read(TOPIC, COUNT + 50, 1, partition=1))


def each_codec_is_stored_as_sent():
    for codec in CODECS:
        topic = f"python-{codec}"
        texts = [f"{codec} {i} ".encode() * 50 for i in range(200)]
        send(topic, ({"value": text} for text in texts), **{"compression.type": codec})
        assert [message.value() for message in read(topic, 0, 200)] == texts
        stored = codecs(f"{DATA}/{topic}-0")
        assert set(stored) == {codec}, (topic, stored)


def nulls_and_headers_come_back():
    headers = [("a", b"1"), ("b", None), ("a", b""), ("\u00fc", "\u00fc".encode()), ("a", b"1")]
    sent = [
        {"key": None, "value": None},
        {"key": b"", "value": b""},
        {"key": b"k", "value": None, "headers": headers},
        {"key": None, "value": b"\0\xff", "headers": []},
    ]
    for codec in CODECS:
        send("python-nulls", sent, **{"compression.type": codec})
    for message, wanted in zip(read("python-nulls", 0, 20), sent * 5, strict=True):
        assert message.key() == wanted["key"], message.key()
        assert message.value() == wanted["value"], message.value()
        assert (message.headers() or []) == wanted.get("headers", []), message.headers()


def large_messages_pass_and_too_large_ones_are_refused():
    large = os.urandom(900_000)
    for codec in CODECS:
        send("python-large", [{"value": large}], **{"compression.type": codec})
    assert all(message.value() == large for message in read("python-large", 0, 5))
    # A fetch for less than one message gives it all the same.
    small = {"fetch.message.max.bytes": 1000, "fetch.max.bytes": 2000000}
    assert read("python-large", 3, 1, **small)[0].value() == large
    too_large = [{"value": os.urandom(1_200_000)}]
    raises(KafkaError.MSG_SIZE_TOO_LARGE, lambda: send("python-large", too_large))
    create("python-wide", num_partitions=1, config={"max.message.bytes": "2000000"})
    send("python-wide", too_large)


def offsets_are_found_by_time():
    start = 1_700_000_000_000
    times = [start + 1000 * i for i in range(100)]
    send("python-times", ({"value": str(at), "timestamp": at} for at in times))
    reader = consumer()

    def offset_at(timestamp):
        asked = [TopicPartition("python-times", 0, timestamp)]
        return reader.offsets_for_times(asked, timeout=30)[0].offset

    for at, expected in ((0, 0), (start, 0), (start + 1, 1), (times[57], 57), (times[99], 99)):
        assert offset_at(at) == expected, (at, offset_at(at))
    # None: the client turns it into the end.
    assert offset_at(times[99] + 1) == -1, offset_at(times[99] + 1)
    message = read("python-times", 57, 1)[0]
    assert message.timestamp()[1] == times[57]


def unknown_topics_appear_when_looked_at():
    found = admin.list_topics("python-looked-at", timeout=30).topics["python-looked-at"]
    assert found.error is None and len(found.partitions) == 1
    reader = consumer(**{"allow.auto.create.topics": False})
    missing = reader.list_topics("python-not-made", timeout=30).topics["python-not-made"]
    assert missing.error is not None or missing.partitions
    bad = admin.list_topics("no/name", timeout=30).topics["no/name"]
    assert bad.error.code() == KafkaError.TOPIC_EXCEPTION, bad.error


def every_level_of_acknowledgement_works():
    for acks in ("0", "1", "all"):
        send("python-acks", [{"value": acks}], acks=acks)
    assert [m.value() for m in read("python-acks", 0, 3)] == [b"0", b"1", b"all"]


for step in (
    topics_are_created_and_deleted,
    records_are_deleted_up_to_an_offset,
    an_idempotent_producer_is_answered_in_order,
    records_are_read_from_an_offset,
    each_codec_is_stored_as_sent,
    nulls_and_headers_come_back,
    large_messages_pass_and_too_large_ones_are_refused,
    offsets_are_found_by_time,
    unknown_topics_appear_when_looked_at,
    every_level_of_acknowledgement_works,
):
    step()
    print(f"ok {step.__name__}", flush=True)
