"""The lifecycle node: settings and topics of ROS on one side, the feeds of streams on the other.

configure: the settings are read, and all streams opened, which asks admission. activate: topics are subscribed.
deactivate: no more messages are taken, and all that came are answered. cleanup: streams are closed. After an error the
node is unconfigured, and starts again by itself where it was to start by itself.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.subscription import Subscription

from duly_client import DulyError
from duly_ros2.feed import Feed
from duly_ros2.link import Link
from duly_ros2.qos import Qos
from duly_ros2.report import Diagnosis
from duly_ros2.ros_messages import Topics, diagnostics, message_type
from duly_ros2.settings import Input, Settings, SettingsError, merged, nested, settings_of

DIAGNOSTICS_PERIOD_S = 1.0
_NOT_SETTINGS = ("use_sim_time", "start_type_description_service", "qos_overrides")
_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class DulyNode(LifecycleNode):
    """`told`: settings of a file; the node's parameters stand above them."""

    def __init__(self, told: Mapping[str, Any], name: str = "duly") -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True)
        self._told = told
        self._settings: Settings | None = None
        self._link: Link | None = None
        self._topics: Topics | None = None
        self._subscriptions_made: list[Subscription[Any]] = []
        self._why_not = ""
        self._starts = bool(self._told_now().get("autostart", True))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = self.create_timer(DIAGNOSTICS_PERIOD_S, self._each_second)

    def start(self) -> None:
        """Configures and activates the node where it is to start by itself and has not."""
        if self._starts and self._link is None and self.trigger_configure() is not _SUCCESS:
            return
        if self._starts and self._link is not None and self.trigger_activate() is _SUCCESS:
            self._starts = False

    # ---- transitions ----

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Reads the settings and opens all streams."""
        try:
            self._settings = settings_of(self._told_now())
            for stream in self._settings.streams:
                for source in stream.inputs.values():
                    message_type(source.type)
            self._topics = Topics(self, self._settings)
            self._link = Link(self._settings, self._topics, self._log)
        except (SettingsError, DulyError, ValueError, TypeError, OSError, ImportError) as error:
            at = f"streams.{error.__notes__[0]}: " if getattr(error, "__notes__", None) else ""
            self._failed(f"{at}{error}")
            self._close()
            return _FAILURE
        self._why_not = ""
        for feed in self._link.feeds:
            self.get_logger().info(f"stream {feed.settings.name} to {feed.settings.model} is open")
        return _SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes to all topics."""
        assert self._link is not None
        self._link.resume()
        for feed in self._link.feeds:
            for which, source in enumerate(feed.settings.inputs.values()):
                self._subscriptions_made.append(self._subscribe(self._link, feed, which, source))
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes no more messages; returns when all are answered."""
        self._unsubscribe()
        if self._link is not None:
            self._link.stop("the node was deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Closes all streams."""
        self._close()
        return _SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Answers what came and closes all streams."""
        self._starts = False
        self._close()
        return _SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Closes all streams, so that the node can be configured again."""
        self._failed("a transition failed; the node is unconfigured")
        self._close()
        self._starts = bool(self._told_now().get("autostart", True))
        return _SUCCESS

    # ---- topics ----

    def _subscribe(self, link: Link, feed: Feed, which: int, source: Input) -> "Subscription[Any]":
        uses_sim_time = self.get_parameter("use_sim_time").value
        clock, wall_ns = self.get_clock(), time.time_ns

        def taken(message: bytes, info: Mapping[str, int]) -> None:
            now_ns = clock.now().nanoseconds if uses_sim_time else wall_ns()
            link.take(feed, which, message, info["source_timestamp"], now_ns)

        events = SubscriptionEventCallbacks(
            incompatible_qos=partial(self._incompatible, link, feed, source),
            message_lost=partial(self._lost, link, feed, source),
            deadline=partial(self._late, link, feed, source) if source.qos.deadline_ms else None,
        )
        kind = message_type(source.type)
        profile = _profile(source.qos)
        return self.create_subscription(kind, source.topic, taken, profile, event_callbacks=events, raw=True)

    def _incompatible(self, link: Link, feed: Feed, source: Input, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        text = f"{source.topic}: a publisher offers another {policy} than qos states, and is not heard"
        self._note(link, feed, f"qos {source.topic}", text)

    def _lost(self, link: Link, feed: Feed, source: Input, event: Any) -> None:
        text = f"{source.topic}: messages were lost before they came to the node, {event.total_count} in all"
        self._note(link, feed, f"lost {source.topic}", text)

    def _late(self, link: Link, feed: Feed, source: Input, event: Any) -> None:
        deadline = f"{source.qos.deadline_ms:g} ms"
        text = f"{source.topic}: no message within the deadline of {deadline}, {event.total_count} times"
        self._note(link, feed, f"deadline {source.topic}", text)

    def _note(self, link: Link, feed: Feed, kind: str, text: str) -> None:
        def note() -> None:
            if feed.report.problem(kind, text, time.monotonic_ns()):
                self._log(f"{feed.settings.name}: {text}")

        link.do(note)

    def _wrong_type(self, source: Input) -> str | None:
        """What is wrong with the types that a topic is published in; None: nothing."""
        if not self._subscriptions_made:
            return None
        try:
            topic = self.resolve_topic_name(source.topic)
            published = {each.topic_type for each in self.get_publishers_info_by_topic(topic)}
        except Exception as error:  # what is asked of the graph raises of any kind, and must not end the node
            return f"{source.topic}: cannot be looked up ({error})"
        if not published or source.type in published:
            return None
        return f"{source.topic}: is published as {', '.join(sorted(published))}, and type says {source.type}"

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []

    # ---- diagnostics ----

    def _each_second(self) -> None:
        self.start()
        link, settings = self._link, self._settings
        if link is None or settings is None:
            state = Diagnosis("ERROR" if self._why_not else "OK", self._why_not or "not configured", {})
            server = settings.server if settings is not None else ""
            self._diagnostics.publish(diagnostics(self.get_clock().now().to_msg(), server, {self.get_name(): state}))
            return
        wrong = {
            (feed.settings.name, source.topic): self._wrong_type(source)
            for feed in link.feeds
            for source in feed.settings.inputs.values()
        }
        link.do(partial(self._diagnose, link.feeds, settings.server, wrong))

    def _diagnose(self, feeds: tuple[Feed, ...], server: str, wrong: dict[tuple[str, str], str | None]) -> None:
        """In the streams' thread, whose the reports are."""
        now_ns = time.monotonic_ns()
        for feed in feeds:
            for (stream, topic), text in wrong.items():
                if stream == feed.settings.name and feed.report.lasting(f"type {topic}", text, now_ns):
                    self._log(f"{stream}: {text}")
        found = {f"{self.get_name()}: {feed.settings.name}": feed.report.diagnose(feed.clock, now_ns) for feed in feeds}
        self._diagnostics.publish(diagnostics(self.get_clock().now().to_msg(), server, found))

    # ---- the rest ----

    def _told_now(self) -> dict[str, Any]:
        given = {
            name: parameter.value
            for name, parameter in self.get_parameters_by_prefix("").items()
            if name.partition(".")[0] not in _NOT_SETTINGS
        }
        return merged(self._told, nested(given))

    def _failed(self, why: str) -> None:
        if why != self._why_not:
            self._why_not = why
            self.get_logger().error(why)

    def _log(self, text: str) -> None:
        self.get_logger().warning(text)

    def _close(self) -> None:
        self._unsubscribe()
        link, self._link = self._link, None
        if link is not None:
            link.close()
        topics, self._topics = self._topics, None
        if topics is not None:
            topics.close()


def _profile(qos: Qos) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if qos.history == "keep_all" else HistoryPolicy.KEEP_LAST,
        depth=qos.reader_depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE if qos.durability == "volatile" else DurabilityPolicy.TRANSIENT_LOCAL,
        deadline=Duration(nanoseconds=round((qos.deadline_ms or 0) * 1e6)),
    )
