"""Records a drive with Foxglove's own SDK: pictures (JPEG files of a folder), and a state in JSON. Its own process."""

import sys
from pathlib import Path

import foxglove
from foxglove.channels import CompressedImageChannel
from foxglove.messages import CompressedImage, ImageAnnotations, Timestamp

folder, out = Path(sys.argv[1]), sys.argv[2]
with foxglove.open_mcap(out):
    camera = CompressedImageChannel("/camera")
    state = foxglove.Channel("/state", message_encoding="json")
    for number, file in enumerate(sorted(folder.glob("*.jpg"))):
        time_ns = 1_700_000_000_000_000_000 + number * 50_000_000
        stamp = Timestamp(time_ns // 10**9, time_ns % 10**9)
        camera.log(CompressedImage(timestamp=stamp, format="jpeg", data=file.read_bytes()), log_time=time_ns)
        state.log({"speed": 3.5}, log_time=time_ns)
schema = ImageAnnotations.get_schema()
Path(f"{out}.schema").write_bytes(schema.data)
print(schema.name, schema.encoding)
