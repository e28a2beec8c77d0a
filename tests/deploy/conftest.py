"""One pool of processes for all tests of the web service: each takes seconds to open a model."""

import contextlib
from typing import NamedTuple

import pytest
from chromium import browsers
from deploy_models import export_folder

FAR = '0.1'


class WebPool(NamedTuple):
    """What services of tests share."""

    model: str  # folder of an export with one threshold, 0.5 at FAR
    embedder: object
    thread: object
    pool: object


@pytest.fixture(scope='session')
def web_pool(tmp_path_factory):
    from vargfacenet.deploy import FaceEmbedder
    from web_service import running_pool

    model = export_folder(tmp_path_factory.mktemp('export'), thresholds={FAR: 0.5})
    embedder = FaceEmbedder(model)
    with running_pool(model, embedder.fingerprint) as (thread, pool):
        yield WebPool(str(model), embedder, thread, pool)


@pytest.fixture
def start_service(web_pool, tmp_path):
    """Starts services on free ports: start_service(access=None, **options of Service)."""
    from web_service import running_service

    with contextlib.ExitStack() as stack:

        def start(folder='gallery', **options):
            service = running_service(
                web_pool.thread, web_pool.pool, web_pool.embedder, tmp_path / folder, **options
            )
            return stack.enter_context(service)

        yield start


@pytest.fixture
def client(start_service):
    return start_service()


@pytest.fixture
def start_browser(tmp_path):
    """Starts Chromium: start_browser(*arguments)."""
    with browsers(tmp_path) as start:

        def patient(*arguments):
            browser = start(*arguments)
            browser.implicitly_wait(10)
            return browser

        yield patient


@pytest.fixture
def browser(start_browser):
    return start_browser()
