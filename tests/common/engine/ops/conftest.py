"""Operators as threads share them."""

import pytest


@pytest.fixture(scope='module', autouse=True)
def shared(two_engine_threads):
    """All tests here: a result must not depend on who makes which part."""
