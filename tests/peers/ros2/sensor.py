"""A robot's sensors, in a process of their own: publishes with rclpy what it is told to, a JSON line each on stdin.

{"topic", "type", "fields", "stamp_ms", "stamp_ns"}: one message, or as many as `count`, one every `every_ms`;
`stamp_ms` is how far its stamp is from now, `stamp_ns` the stamp itself. {"replay": FILE, "rate"}: all messages of an
MCAP at the times at which they were logged, `rate` times as fast, with stamps of now. {"transition": NAME}: a
transition of the node's life. Each line is answered with a line when it is done.
"""

import array
import importlib
import json
import struct
import sys
import time

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message

MATCH_S_MAX = 100.0


def message_class(name):
    package, _, kind = name.partition("/msg/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


def filled(message, fields):
    for name, value in fields.items():
        held = getattr(message, name)
        if isinstance(value, dict):
            filled(held, value)
        elif isinstance(held, array.array):
            setattr(message, name, array.array(held.typecode, value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            setattr(message, name, [filled(element_class(message, name)(), each) for each in value])
        else:
            setattr(message, name, value)
    return message


def element_class(message, name):
    return message_class(
        message.get_fields_and_field_types()[name].removeprefix("sequence<").removesuffix(">").replace("/", "/msg/")
    )


class Sensors:
    def __init__(self):
        self.node = rclpy.create_node("sensors")
        self.publishers = {}

    def publisher(self, topic, kind, reliability="reliable", waits=True):
        if topic not in self.publishers:
            reliable = ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
            self.publishers[topic] = self.node.create_publisher(
                message_class(kind), topic, QoSProfile(depth=100, reliability=reliable)
            )
        publisher = self.publishers[topic]
        until = time.monotonic() + MATCH_S_MAX
        while waits and publisher.get_subscription_count() == 0 and time.monotonic() < until:
            time.sleep(0.01)
        return publisher

    def one(self, told):
        message = filled(message_class(told["type"])(), told.get("fields", {}))
        if hasattr(message, "header") and ("stamp_ms" in told or "stamp_ns" in told):
            stamp_ns = told.get("stamp_ns") or time.time_ns() + round(told["stamp_ms"] * 1e6)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        publisher = self.publisher(
            told["topic"], told["type"], told.get("reliability", "reliable"), told.get("waits", True)
        )
        for _ in range(told.get("count", 1)):
            publisher.publish(serialize_message(message))
            time.sleep(told.get("every_ms", 0) / 1e3)

    def transition(self, told):
        client = self.node.create_client(ChangeState, "/duly/change_state")
        client.wait_for_service(MATCH_S_MAX)
        request = ChangeState.Request()
        request.transition.id = getattr(Transition, f"TRANSITION_{told['transition'].upper()}")
        future = client.call_async(request)
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=MATCH_S_MAX)
        self.node.destroy_client(client)
        return future.result().success

    def replay(self, told):
        from mcap.reader import make_reader

        with open(told["replay"], "rb") as content:
            logged = [
                (message.log_time, channel.topic, schema.name, message.data)
                for schema, channel, message in make_reader(content).iter_messages()
            ]
        for _, topic, kind, _ in logged:
            self.publisher(topic, kind)
        began_ns, first_ns = time.monotonic_ns(), logged[0][0]
        for log_ns, topic, _, data in logged:
            time.sleep(max(0, began_ns + (log_ns - first_ns) / told["rate"] - time.monotonic_ns()) / 1e9)
            stamp = struct.pack("<iI", *divmod(time.time_ns(), 1_000_000_000))
            self.publishers[topic].publish(data[:4] + stamp + data[12:])


def main():
    rclpy.init()
    sensors = Sensors()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        if "transition" in told:
            done = sensors.transition(told)
        else:
            done = (sensors.replay if "replay" in told else sensors.one)(told)
        print(json.dumps({"done": done}), flush=True)


main()
