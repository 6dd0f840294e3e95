"""Who may label whose frames, under a policy, and how often."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from duly.access.tokens import new_token, policy_lines
from duly.sampling import feedback
from duly.sampling.store import read
from duly_client import Client, Feedback, FeedbackStatus, NotAllowed, StreamRefused
from tests import graphs
from tests.e2e.serving import serving

JOINED, UNKNOWN = FeedbackStatus.JOINED, FeedbackStatus.UNKNOWN_FRAME
MAY = {
    "camera": 'may = ["infer", "feedback"]',
    "other": 'may = ["infer", "feedback"]',
    "viewer": "",
    "desk": 'may = ["feedback", "feedback-any"]',
    "elsewhere": 'may = ["feedback", "feedback-any"]\nmodels = ["other-*"]',
    "only any": 'may = ["feedback-any"]',
}


async def test_labels_reach_frames_of_own_streams_and_of_others_by_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = {name: new_token() for name in MAY}
    tables = [f'[[principal]]\nname = "{name}"\n{may}\n{policy_lines(tokens[name])}' for name, may in MAY.items()]
    (tmp_path / "policy.toml").write_text("\n".join(tables))
    graphs.save(tmp_path / "models", "m", graphs.doubling())
    (tmp_path / "samples").mkdir()
    async with serving(tmp_path / "models", policy=tmp_path / "policy.toml", sample=tmp_path / "samples") as app:

        async def label(name: str, key: str, number: int, times: int = 1) -> set[FeedbackStatus]:
            async with Client(app.address, token=tokens[name]) as client:
                return {each.status for each in await client.feedback([Feedback(key, 1, number)] * times)}

        async with Client(app.address, token=tokens["camera"]) as client, client.stream("m") as stream:
            await stream.send(np.zeros(4, np.float32))
            assert (await anext(stream)).ok
            key = stream.key_of(1)
        while not app._sampling.counts.written["m"]:
            await asyncio.sleep(0.01)
        assert await label("other", key, 1) == {UNKNOWN}
        assert await label("elsewhere", key, 2) == {UNKNOWN}
        for name in ("viewer", "only any"):
            with pytest.raises(NotAllowed, match="no right to feedback"):
                await label(name, key, 3)
        assert not any(each.labels for each in read(tmp_path / "samples"))
        assert await label("camera", key, 4) == {JOINED}
        assert await label("desk", key, 5) == {JOINED}
        (kept,) = read(tmp_path / "samples")
        assert kept.labels == {"label": 5}
        assert kept.labelled is not None
        assert (kept.principal, kept.labelled.principal) == ("camera", "desk")
        monkeypatch.setattr(feedback, "ITEMS_BURST", 3)
        monkeypatch.setattr(feedback, "ITEMS_PER_S", 0.001)
        app._sampling.desk._budgets.clear()  # type: ignore[union-attr]
        assert await label("desk", key, 6, times=3) == {JOINED}
        with pytest.raises(StreamRefused, match="labelled by this principal") as refused:
            await label("desk", key, 6)
        assert refused.value.reason == "CALLS_EXHAUSTED"
        assert await label("camera", key, 7) == {JOINED}, "others have what is theirs"
