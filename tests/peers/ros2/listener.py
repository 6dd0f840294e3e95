"""Somebody who listens, in a process of its own: prints what comes on the topics of its arguments, TOPIC=TYPE, a JSON
line each. Arrays of bytes are printed as hexadecimal digits.
"""

import array
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import QoSProfile


def plain(value):
    if isinstance(value, (array.array, np.ndarray)):
        return bytes(value).hex() if value.itemsize == 1 else value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return (
            bytes(value).hex()
            if value and all(type(each) is int for each in value) and len(value) > 8
            else [plain(each) for each in value]
        )
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    return value


def main():
    rclpy.init()
    node = rclpy.create_node(f"listener_{Path(sys.argv[1]).name.replace('=', '_').replace('/', '_')}")
    for argument in sys.argv[1:]:
        topic, _, kind = argument.partition("=")
        package, _, name = kind.partition("/msg/")
        message = getattr(importlib.import_module(f"{package}.msg"), name)

        def heard(message, topic=topic):
            print(json.dumps({"topic": topic, "message": plain(message)}), flush=True)

        node.create_subscription(message, topic, heard, QoSProfile(depth=1000))
    print(json.dumps("ready"), flush=True)
    rclpy.spin(node)


main()
