from tests.e2e.conftest import repository

__all__ = ["repository"]
