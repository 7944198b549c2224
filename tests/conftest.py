"""Fixtures that tests of several kinds ask for."""

from tests.servers import postgres_server, s3_server

__all__ = ["postgres_server", "s3_server"]
