"""Fixtures that tests of several kinds ask for."""

from tests import builders  # noqa: F401 - one service token for all servers and clients of the tests
from tests.servers import postgres_server, s3_server

__all__ = ["postgres_server", "s3_server"]
