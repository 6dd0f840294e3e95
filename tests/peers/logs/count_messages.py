"""Prints what MCAP's own libraries find in a log: topic, schema, encoding, number of messages. Its own process."""

import sys

from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory as Protobuf
from mcap_ros2.decoder import DecoderFactory as Ros2

counted: dict[tuple[str, str, str], int] = {}
with open(sys.argv[1], "rb") as file:
    reader = make_reader(file, validate_crcs=True, decoder_factories=[Protobuf(), Ros2()])
    for schema, channel, _, content in reader.iter_decoded_messages():
        assert content is not None
        assert schema is not None
        key = (channel.topic, schema.name, channel.message_encoding)
        counted[key] = counted.get(key, 0) + 1
for (topic, name, encoding), count in sorted(counted.items()):
    print(topic, name, encoding, count)
