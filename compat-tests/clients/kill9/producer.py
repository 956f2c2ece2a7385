"""A producer that outlives its server: numbered records to every partition, each acknowledgement in a file at once.

    producer.py BOOTSTRAP LOG NAME idempotent|plain SEED TOPIC:PARTITIONS...

The value of a record is `NAME NUMBER PADDING`, numbers count from 0 in each partition. A line of LOG is
`ack TOPIC PARTITION NUMBER OFFSET`, written in the callback of the acknowledgement, or `error ...`. At the end of
standard input it stops, waits for what is on its way and writes `sent TOPIC PARTITION COUNT` for each partition, then
`end`.
"""

import os
import random
import sys
import threading

from confluent_kafka import Producer

bootstrap, log_path, name, kind, seed = sys.argv[1:6]
partitions = []
for topic in sys.argv[6:]:
    topic, count = topic.split(":")
    partitions += [(topic, index) for index in range(int(count))]

log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
generator = random.Random(int(seed))
sent = dict.fromkeys(partitions, 0)


def write(line):
    os.write(log, (line + "\n").encode())


def fatal(error):
    if error.fatal():
        write(f"error fatal {error}")


config = {
    "bootstrap.servers": bootstrap,
    "acks": "all",
    # The server is away for a second at a time and comes back on the same port.
    "reconnect.backoff.ms": 5,
    "reconnect.backoff.max.ms": 50,
    "retry.backoff.ms": 10,
    "message.timeout.ms": 300000,
    "linger.ms": 2,
    "batch.num.messages": 20,
    "error_cb": fatal,
    "log_level": 0,
}
if kind == "idempotent":
    config["enable.idempotence"] = True
else:
    # Order without idempotence: one request at a time.
    config["enable.idempotence"] = False
    config["max.in.flight.requests.per.connection"] = 1
producer = Producer(config)

stop = threading.Event()


def watch_input():
    sys.stdin.read()
    stop.set()


threading.Thread(target=watch_input, daemon=True).start()


def delivered(number):
    def callback(error, message):
        place = f"{message.topic()} {message.partition()} {number}"
        if error is None:
            write(f"ack {place} {message.offset()}")
        else:
            write(f"error {place} {error}")

    return callback


while not stop.is_set():
    topic, index = generator.choice(partitions)
    number = sent[topic, index]
    padding = "x" * generator.choice((0, 20, 200, 3000))
    producer.produce(
        topic,
        value=f"{name} {number} {padding}",
        partition=index,
        on_delivery=delivered(number),
    )
    sent[topic, index] = number + 1
    # Some hundred on their way, no more: the reader at the end has to take them all.
    producer.poll(0 if len(producer) < 200 else 0.005)
    while len(producer) >= 200 and not stop.is_set():
        producer.poll(0.005)
left = producer.flush(60)
for (topic, index), count in sent.items():
    write(f"sent {topic} {index} {count}")
write(f"end {left}")
