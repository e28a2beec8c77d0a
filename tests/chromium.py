"""Chromium for tests of pages."""

import contextlib
import shutil

import pytest

ARGUMENTS = (  # it starts without a window and calls nobody
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


@contextlib.contextmanager
def browsers(folder):
    """What starts Chromium, with more arguments; the test skips where there is none.

    Parameters
    ----------
    folder : for the profiles
    """
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    driver_path = shutil.which('chromedriver')
    if not chromium or not driver_path:
        pytest.skip('no Chromium with chromedriver')
    drivers = []

    def start(*arguments):
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        profile = f'user-data-dir={folder / f"profile{len(drivers)}"}'
        for argument in (*ARGUMENTS, profile, *arguments):
            options.add_argument(f'--{argument}')
        drivers.append(webdriver.Chrome(options, webdriver.ChromeService(driver_path)))
        return drivers[-1]

    try:
        yield start
    finally:
        for driver in drivers:
            driver.quit()
