"""One pool of processes for all tests of the web service: each takes seconds to open a model."""

import contextlib
import shutil
from typing import NamedTuple

import pytest
from deploy_models import export_folder

FAR = '0.1'
CHROMIUM = (  # it starts without a window and calls nobody
    'headless',
    'no-sandbox',
    'disable-gpu',
    'disable-quic',
    'no-first-run',
    'disable-background-networking',
    'disable-component-update',
    'disable-sync',
    'disable-dev-shm-usage',
    'window-size=1000,760',
)


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
    with running_pool(model) as (thread, pool):
        yield WebPool(str(model), FaceEmbedder(model), thread, pool)


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
    """Starts Chromium without a window, with more arguments; the test skips where there is none."""
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    driver_path = shutil.which('chromedriver')
    if not chromium or not driver_path:
        pytest.skip('no Chromium with chromedriver')
    drivers = []

    def start(*arguments):
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        profile = f'user-data-dir={tmp_path / f"profile{len(drivers)}"}'
        for argument in (*CHROMIUM, profile, *arguments):
            options.add_argument(f'--{argument}')
        drivers.append(webdriver.Chrome(options, webdriver.ChromeService(driver_path)))
        drivers[-1].implicitly_wait(10)
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.quit()


@pytest.fixture
def browser(start_browser):
    return start_browser()
