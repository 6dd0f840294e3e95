"""A publisher with Zenoh's own package: it publishes what it reads from its standard input, a sample for each line of
JSON. It imports nothing of duly.

    python publisher.py tcp/127.0.0.1:7447 [shared]
"""

import json
import sys

import zenoh

config = zenoh.Config()
config.insert_json5("mode", '"peer"')
config.insert_json5("connect/endpoints", json.dumps([sys.argv[1]]))
config.insert_json5("scouting/multicast/enabled", "false")
config.insert_json5("transport/shared_memory/enabled", "true")
shared = sys.argv[2:] == ["shared"]
with zenoh.open(config) as session:
    provider = zenoh.shm.ShmProvider.default_backend(8 << 20) if shared else None
    publishers = {}
    print("ready", flush=True)
    for line in sys.stdin:
        sample = json.loads(line)
        if "ask" in sample:
            replies = [reply.ok.payload.to_string() for reply in session.get(sample["ask"], timeout=10)]
            print(replies[0] if replies else "none", flush=True)
            continue
        data = bytes.fromhex(sample["hex"])
        payload = data
        if provider is not None:
            payload = provider.alloc(len(data), zenoh.shm.BlockOn(zenoh.shm.GarbageCollect()))
            payload[:] = data
        key = sample["key"]
        if key not in publishers:
            publishers[key] = session.declare_publisher(key)
            matching = publishers[key].matching_status
            while not matching.matching:
                matching = publishers[key].matching_status
        encoding = zenoh.Encoding(sample.get("encoding", "zenoh/bytes"))
        publishers[key].put(payload, encoding=encoding, attachment=sample.get("attachment"))
        print("put", flush=True)
