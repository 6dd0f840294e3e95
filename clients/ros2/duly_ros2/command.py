"""The command duly-ros2: runs the node, or makes the message packages that a pip installation lacks."""

import argparse
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

import yaml

from duly_ros2 import make_messages
from duly_ros2.settings import SettingsError, of_file

STOP_S_MAX = 10.0
"""How long the node may take to stop what it is at."""


def main() -> None:
    """Runs the command that the arguments state; ends the process with 2 where one is wrong, 1 where it failed."""
    parser = argparse.ArgumentParser(
        prog="duly-ros2",
        description="Streams ROS 2 topics to a duly server and publishes what becomes of them.",
        epilog="Arguments of ROS, such as parameters and remappings, follow --ros-args.",
    )
    parser.add_argument("--config", type=Path, help="settings, a YAML file; parameters stand above them")
    parser.add_argument("--name", default="duly", help="the node's name")
    parser.add_argument(
        "--make-messages",
        action="store_true",
        help="make duly_msgs, and where missing vision_msgs and audio_common_msgs",
    )
    ours, ros = _split(sys.argv[1:])
    given = parser.parse_args(ours)
    if given.make_messages:
        _make_messages()
        return
    missing = make_messages.missing()
    if missing:
        parser.exit(1, f"duly-ros2: there are no packages {', '.join(missing)}; run duly-ros2 --make-messages\n")
    try:
        told = of_file(yaml.safe_load(given.config.read_text())) if given.config is not None else {}
    except (OSError, yaml.YAMLError, SettingsError, UnicodeDecodeError) as error:
        parser.exit(2, f"duly-ros2: {given.config}: {error}\n")
    _run(told, given.name, ros)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--ros-args") if "--ros-args" in arguments else len(arguments)
    return arguments[:at], arguments[at:]


def _make_messages() -> None:
    for name in make_messages.missing():
        print(f"making {name}", flush=True)
        try:
            make_messages.make(name, Path(sysconfig.get_path("platlib")))
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"duly-ros2: {name} cannot be made: {error}") from error


def _run(told: dict[str, Any], name: str, ros: list[str]) -> None:
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    from duly_ros2.node import DulyNode

    # ROS's own handlers end everything at once, and what became of the last messages could not be published any more.
    rclpy.init(args=["duly-ros2", *ros], signal_handler_options=rclpy.SignalHandlerOptions.NO)
    stopping = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stopping.set())
    node = DulyNode(told, name)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    failed: list[BaseException] = []

    def spin() -> None:
        try:
            node.start()
            executor.spin()
        except ExternalShutdownException:
            pass
        except BaseException as error:
            failed.append(error)
        finally:
            stopping.set()

    spinning = threading.Thread(target=spin, name="duly-ros2")
    spinning.start()
    stopping.wait()  # signals interrupt it, and no wait for messages
    executor.shutdown(timeout_sec=STOP_S_MAX)
    spinning.join(STOP_S_MAX)
    node.trigger_shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    if failed:
        raise failed[0]


if __name__ == "__main__":
    main()
