import pytest

from duly_client import call


@pytest.fixture(params=["beneath grpc.aio's interface", "through it"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages go by the operations beneath grpc.aio's interface, and as where a version of it has others. Stories
    whose call ends during a write are told one way only: through the interface gRPC says INTERNAL of some of them.
    """
    if request.param == "through it":
        monkeypatch.setattr(call, "_OPERATIONS", ("none_has_this",))
