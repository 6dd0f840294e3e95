"""ROS 2 topics as streams of a duly server, and outcomes as topics.

`node` is the lifecycle node, and with `ros_messages` and `make_messages` all that knows ROS. The rest knows bytes,
arrays and times: what a message holds (`samples`), which ones belong together (`joining`), what quality of service
means for a stream (`qos`), and how one stream is fed (`feed`).
"""
