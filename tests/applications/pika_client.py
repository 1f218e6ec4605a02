"""A client of RabbitMQ that knows nothing of anybroker.

pika_client.py URL write EXCHANGE    publishes a bare message of each line of the input, and an odd one
pika_client.py URL read QUEUE...     takes all messages from the queues, and prints each as JSON
"""
import datetime
import decimal
import json
import sys

import pika

ODD = {
    "text": "größe", "number": 42, "negative": -(2**40), "truth": True, "nothing": None,
    "decimal": decimal.Decimal("1.5"), "when": datetime.datetime(2024, 1, 2),
    "list": [1, "two", None], "table": {"a": {"b": [True]}}, "x-death": "not an array",
}


def write(channel, exchange):
    channel.confirm_delivery()
    for line in sys.stdin:
        body = line.rstrip("\n").encode()
        persistent = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish(exchange, "", body, persistent, mandatory=True)
        odd = pika.BasicProperties(delivery_mode=2, headers=ODD, message_id="no uuid", priority=3,
                                   content_type="text/odd", reply_to="somewhere", type="odd", app_id="pika")
        channel.basic_publish(exchange, "any key at all", body.replace(b"bare", b"odd"), odd, mandatory=True)


def read(channel, queues):
    channel.basic_qos(prefetch_count=100)
    for queue in queues:
        arguments = {"x-stream-offset": "first"} if queue.endswith("::stream") else None
        for method, properties, body in channel.consume(queue, inactivity_timeout=1.0, arguments=arguments):
            if method is None:
                break
            headers = {name: value.decode(errors="replace") if isinstance(value, bytes) else value
                       for name, value in (properties.headers or {}).items()}
            print(json.dumps({
                "queue": queue, "routing_key": method.routing_key, "payload": body.decode(),
                "headers": headers, "message_id": properties.message_id,
                "content_type": properties.content_type, "timestamp": properties.timestamp,
                "correlation_id": properties.correlation_id,
                "delivery_mode": properties.delivery_mode,
            }, default=str))
            channel.basic_ack(method.delivery_tag)
        channel.cancel()


url, command, *names = sys.argv[1:]
with pika.BlockingConnection(pika.URLParameters(url)) as connection:
    {"write": lambda: write(connection.channel(), *names), "read": lambda: read(connection.channel(), names)}[command]()
