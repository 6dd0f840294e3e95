"""How long a load is waited for. It reads no clock: it is told the time.

A load has a time-out, and a compiler of engines takes as long as it takes, which nobody knows beforehand. So while one
is at work the time-out stands still. What is asked of a compiler is that it computes: where its process uses no
processor time for STILL_SECONDS_MAX, it hangs. It has a time-out of its own, which is far longer.
"""

STILL_SECONDS_MAX = 300.0
"""A compiler that has used no processor time for so long is killed, and the load fails."""
LOOK_SECONDS = 5.0
"""So often a compiler is looked at."""
TOLD_SECONDS = 60.0
"""So often the log says that a compiler is still at work."""


class LoadPatience:
    def __init__(self, timeout_s: float, timeout_name: str, build_timeout_s: float, now_s: float) -> None:
        """`timeout_name`: where the time-out comes from, for people. `build_timeout_s`: that of compiling."""
        self._timeout_s = timeout_s
        self._timeout_name = timeout_name
        self._build_timeout_s = build_timeout_s
        self._at_s = now_s
        self._used_s = 0.0
        self._built_s = 0.0
        self._builds = False
        self._waits = False
        self._cpu_ns = -1
        self._still_since_s = now_s

    def note(self, builds: bool, waits: bool, now_s: float) -> None:
        """Notes whether something is compiled from now on, or the worker waits for the server."""
        self._pass(now_s)
        if builds and not self._builds:
            self._cpu_ns, self._still_since_s = -1, now_s
        self._builds, self._waits = builds, waits

    def look_s(self, now_s: float) -> float:
        """Returns when to look again, in seconds from now."""
        self._pass(now_s)
        if self._builds or self._waits:
            return LOOK_SECONDS
        return max(0.0, self._timeout_s - self._used_s)

    def over(self, now_s: float, cpu_ns: int | None) -> str:
        """Returns why the load is waited for no longer; empty: it is. `cpu_ns`: processor time that the worker has
        used; None: the system does not say.
        """
        self._pass(now_s)
        if self._builds and not self._waits:
            if cpu_ns is None or cpu_ns != self._cpu_ns:
                self._cpu_ns = -1 if cpu_ns is None else cpu_ns
                self._still_since_s = now_s
            if now_s - self._still_since_s > STILL_SECONDS_MAX:
                return f"compiles without computing anything for {STILL_SECONDS_MAX:.4g} s: it hangs"
            if self._built_s >= self._build_timeout_s:
                return f"not compiled after {self._build_timeout_s:.4g} s (engine_build_timeout_s)"
        if self._used_s >= self._timeout_s:
            return f"not ready after {self._timeout_s:.4g} s ({self._timeout_name})"
        return ""

    def _pass(self, now_s: float) -> None:
        elapsed_s, self._at_s = now_s - self._at_s, now_s
        if self._waits:
            return  # the server is at work, which bounds that itself
        if self._builds:
            self._built_s += elapsed_s
        else:
            self._used_s += elapsed_s
