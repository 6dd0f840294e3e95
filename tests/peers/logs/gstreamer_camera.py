"""Cameras that send JPEG over RTSP, by GStreamer's server. Its own process; prints two ports, the second of a server
that wants user and password. The first one may be given.

It runs with the system's Python, which has GStreamer's bindings.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
SOURCE = "videotestsrc pattern=ball is-live=true"
JPEG = "video/x-raw,format=I420,width=320,height=240,framerate=20/1 ! jpegenc ! rtpjpegpay name=pay0 pt=26"


def listening(cameras: dict[str, str], auth: GstRtspServer.RTSPAuth | None = None) -> int:
    """Starts a server of cameras by their paths, and gives its port."""
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1] if len(sys.argv) > 1 and auth is None else "0")
    if auth is not None:
        server.set_auth(auth)
    for path, launch in cameras.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {launch} )")
        role = Gst.Structure.new_empty("user")
        role.set_value("media.factory.access", True)
        role.set_value("media.factory.construct", True)
        factory.add_role_from_structure(role)
        server.get_mount_points().add_factory(path, factory)
    server.attach(None)
    servers.append(server)
    return server.get_bound_port()


servers: list[GstRtspServer.RTSPServer] = []
auth = GstRtspServer.RTSPAuth()
token = GstRtspServer.RTSPToken()
token.set_string("media.factory.role", "user")
auth.add_basic(GstRtspServer.RTSPAuth.make_basic("me", "secret"), token)
free = listening({"/jpeg": f"{SOURCE} ! {JPEG}", "/short": f"{SOURCE} num-buffers=40 ! {JPEG}"})
print(free, listening({"/jpeg": f"{SOURCE} ! {JPEG}"}, auth), flush=True)
GLib.MainLoop().run()
