"""The gate that every call passes: who calls, and whether it may. It also ends calls whose right to go on has ended.

A call is judged when it begins. Those that last are judged again whenever the policy changes, and end when their
credential expires; both within `LOOK_SECONDS`. The policy is read again when its file changes and on `reload`; one that
is wrong is told, and the one before stays.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from duly.access.audit import Audit
from duly.access.errors import AccessError, NotAuthenticated
from duly.access.evidence import Evidence
from duly.access.files import stamp
from duly.access.judge import Judge, Judged
from duly.access.listeners import Listener
from duly.access.policy import Policy, read_policy
from duly.streams.errors import CallError
from duly.streams.rights import ADMIN, Right, Rights

LOOK_SECONDS = 1.0
"""How often the gate looks for a changed policy and for credentials that have expired."""
REFUSALS = ("UNAUTHENTICATED", "NOT_PERMITTED")
"""The reasons that go into the audit log."""
NOT_LISTED = "this server does not say who may make this call, so nobody may"

_log = structlog.get_logger("duly.access")


class Caller:
    """One call: who makes it and what it is allowed. It is known from the call's first moment on."""

    __slots__ = (
        "_end",
        "_gate",
        "act",
        "changed",
        "ended",
        "evidence",
        "listener",
        "open",
        "right",
        "rights",
        "until_unix_s",
        "where",
    )

    def __init__(self, gate: "Gate", listener: Listener, act: str, right: Right | None, where: str) -> None:
        self._gate = gate
        self.listener = listener
        self.act = act
        """What is called, such as ModelService/UnloadModel."""
        self.right = right
        """What the call needs; None: nobody may make it."""
        self.where = where
        """The peer, as the transport names it."""
        self.evidence = Evidence("")
        self.rights: Rights | None = None
        """What the caller may do; None until it is judged."""
        self.until_unix_s = 0.0
        self.open = False
        """Whether anybody may make the call."""
        self.ended: CallError | None = None
        """Why the call may not go on."""
        self._end: Callable[[CallError], None] = lambda error: None
        self.changed: Callable[[Rights], None] = lambda rights: None
        """Called with the caller's new rights when the policy has changed. It raises CallError where they do not do."""

    @property
    def name(self) -> str:
        return self.rights.principal if self.rights is not None else ""

    async def judge(self, evidence: Evidence) -> Rights:
        """Judges the caller by what it shows. Raises CallError where it may not make the call."""
        self.evidence = evidence
        try:
            judged = await self._gate.judged(evidence, self.listener)
        except NotAuthenticated as error:
            raise CallError("UNAUTHENTICATED", str(error)) from None
        rights, self.until_unix_s = judged.rights, judged.expires_unix_s
        if self.rights is not None and rights.principal != self.rights.principal:
            raise CallError("UNAUTHENTICATED", "the policy says now that the caller is another principal; call again")
        self.rights = rights
        if self.right is None:
            raise CallError("NOT_PERMITTED", NOT_LISTED)
        if self.right not in rights.may:
            text = f"{rights.principal!r} has no right to {self.right.value} here"
            if self.right in ADMIN and not self.listener.admin:
                text = f"{text}: {self.listener.why_no_admin}"
            raise CallError("NOT_PERMITTED", text)
        return rights

    def open_to_all(self) -> None:
        """Lets the caller in, whoever it is, to what anybody may know."""
        self.open = True
        self.rights = Rights("anyone", may=frozenset())

    def failed(self, reason: str, text: str) -> None:
        """Notes that the call ends with an error of the server's, wherever that was found."""
        self._gate.failed[reason] += 1
        if reason in REFUSALS:
            self._gate.audit.refuse(self.name, self.where, self.act, reason, text)

    def acted(self, target: str, result: str) -> None:
        """Notes what became of the call where it is an admin act."""
        if self.right in ADMIN:
            self._gate.audit.acted(self.name, self.where, self.act, target, result)

    def ends_by(self, end: Callable[[CallError], None]) -> None:
        """Has `end` called when the call may not go on; at once, if that is known already."""
        self._end = end
        if self.ended is not None:
            end(self.ended)

    def end(self, error: CallError) -> None:
        if self.ended is None:
            self.ended = error
            self._end(error)


class Gate:
    def __init__(self, policy: Path | None = None, audit: Audit | None = None) -> None:
        """Raises AccessError where the policy cannot be used."""
        self.now_unix_s: Callable[[], float] = time.time
        self._path = policy
        self._stamp = stamp(policy) if policy is not None else ()
        self.audit = audit or Audit()
        self.judge = Judge(read_policy(policy) if policy is not None else None, self._now)
        self._asked = asyncio.Event()
        self.failed: Counter[str] = Counter()
        """How many calls ended with an error of the server's, by its reason."""
        self._lasting: dict[Caller, None] = {}
        """Calls that last: streams and watchers."""

    @property
    def policy(self) -> Policy | None:
        return self.judge.policy

    async def judged(self, evidence: Evidence, listener: Listener) -> Judged:
        """Returns who the caller is by the policy of now. Raises NotAuthenticated."""
        while True:
            judge = self.judge
            judged = await judge.judge(evidence, listener)
            if judge is self.judge:
                return judged  # else the policy has changed meanwhile

    def begins(self, caller: Caller) -> None:
        """Watches over a call that lasts, until `over`."""
        self._lasting[caller] = None

    def over(self, caller: Caller) -> None:
        del self._lasting[caller]

    async def watch(self) -> None:
        """Looks after the policy and the calls, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._asked.wait()
            self._asked.clear()
            await self.look()

    def reload_soon(self) -> None:
        """Has the policy read again at once, whether it seems to have changed or not."""
        self._stamp = (-1,)
        self._asked.set()

    async def look(self) -> None:
        """Reads the policy again if its file has changed, and ends the calls whose credentials have expired."""
        if self._path is not None and stamp(self._path) != self._stamp:
            await self.reload()
        now_s = self.now_unix_s()
        for caller in [caller for caller in self._lasting if 0 < caller.until_unix_s <= now_s]:
            text = "the credential with which the call began has expired; call again with a new one"
            caller.end(CallError("UNAUTHENTICATED", text))

    async def reload(self) -> bool:
        """Reads the policy again and judges all calls that last by it. Returns whether it could be used."""
        if self._path is None:
            return True
        self._stamp = stamp(self._path)
        try:
            judge = Judge(read_policy(self._path), self._now, self.judge.keys)
            if judge.keys is not None:
                await judge.keys.start()
        except AccessError as error:
            _log.error("the policy cannot be used, the one before stays", reason=str(error))
            self.audit.changed("policy", f"kept, as the new one cannot be used: {error}")
            return False
        self.judge = judge
        _log.info("the policy was read anew", principals=len(judge.policy.principal) if judge.policy else 0)
        self.audit.changed("policy", "ok")
        for caller in list(self._lasting):
            if caller.open:
                continue
            try:
                caller.changed(await caller.judge(caller.evidence))
            except CallError as error:
                caller.end(error)
        return True

    async def start(self) -> None:
        """Reads what is read at start: the keys of tokens. Raises AccessError where there are none."""
        keys = self.judge.keys
        if keys is not None:
            await keys.start()

    def _now(self) -> float:
        return self.now_unix_s()

    def close(self) -> None:
        self.audit.close()
