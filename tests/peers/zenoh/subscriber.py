"""A subscriber with Zenoh's own package: it prints each sample as a line of JSON. It imports nothing of duly.

python subscriber.py tcp/127.0.0.1:7447 'robot/**'
"""

import json
import sys

import zenoh

config = zenoh.Config()
config.insert_json5("mode", '"peer"')
config.insert_json5("connect/endpoints", json.dumps([sys.argv[1]]))
config.insert_json5("scouting/multicast/enabled", "false")
with zenoh.open(config) as session, session.declare_subscriber(sys.argv[2]) as subscriber:
    print("ready", flush=True)
    for sample in subscriber:
        told = {
            "key": str(sample.key_expr),
            "encoding": str(sample.encoding),
            "hex": sample.payload.to_bytes().hex(),
            "attachment": sample.attachment.to_string() if sample.attachment else "",
        }
        print(json.dumps(told), flush=True)
