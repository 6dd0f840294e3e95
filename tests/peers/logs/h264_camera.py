"""A camera that sends H.264 over RTSP, by the server of the package `rtsp`. Its own process; prints its address."""

import socket

import numpy as np
from PIL import Image
from rtsp import source

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
listening = source._RTSPServer
source._RTSPServer = lambda host, *rest: listening("127.0.0.1", *rest)  # it has no setting for it
camera = source.Source(f"rtsp://127.0.0.1:{port}/live", fps=20, size=(320, 240))
shades = [Image.fromarray(np.full((240, 320, 3), shade, np.uint8)) for shade in range(40, 200, 8)]
for shade in shades:  # it shows them again and again
    camera.put(shade)
camera.wait_ready()
camera.wait_encoding_started()
print(f"rtsp://127.0.0.1:{port}/live", flush=True)
camera.serve_forever()
