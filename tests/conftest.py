"""Fixtures that tests of several kinds ask for."""

import os

from tests.builders import SERVICE_TOKEN
from tests.servers import postgres_server, s3_server

os.environ["AFINA_SERVICE_TOKEN"] = SERVICE_TOKEN  # what servers of the tests ask for, their clients show, and programs inherit

__all__ = ["postgres_server", "s3_server"]
