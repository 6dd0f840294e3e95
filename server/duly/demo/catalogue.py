"""The demos by name. Each is a module of its own, which is imported when it is wanted."""

import importlib

from duly.demo.description import Demo

DEMOS = {
    "street": "a camera and a microphone in a street: detection of objects, and who speaks when",
    "vehicle": "cameras, lidar, radar and an IMU of a vehicle, one of them critical",
    "bedside": "monitors at six beds: an alarm for each ectopic heartbeat, in time",
    "fraud": "card payments are scored the moment they come, and a model learns new ways of fraudsters",
    "machine": "sensors of a machine and the vibration of a bearing: faults found as they begin",
    "network": "gateways turn away phishing sites, and learn when what they are told of sites changes",
    "images": "magnetic resonance pictures of a head: grey and white matter told apart in each",
}
"""What each demo shows, in the order of `duly demo --list`."""


def demo_named(name: str) -> Demo:
    """Returns the demo of that name in DEMOS."""
    demo: Demo = importlib.import_module(f"duly.demo.{name}").DEMO
    return demo
