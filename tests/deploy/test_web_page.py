"""The page in a real browser, on pictures that we draw."""

import os
from pathlib import Path

from deploy_models import encoded_crop


def fits(browser, width):
    """Whether nothing of the page lies beyond the right edge of a window of this width."""
    browser.set_window_size(width, 900)
    right = 'return Math.max(...[...document.querySelectorAll("body *")].map('
    right += 'e => e.getBoundingClientRect().right))'
    return browser.execute_script(right) <= browser.execute_script('return innerWidth')


def test_the_page_in_a_browser(client, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    shots = Path(os.environ.get('VARGFACENET_SCREENSHOTS', tmp_path))
    photographs = {}
    for name, identity, picture in (('ada', 1, 0), ('ada2', 1, 1), ('grace', 2, 0)):
        photographs[name] = tmp_path / f'{name}.png'
        photographs[name].write_bytes(encoded_crop(identity, picture))

    def drop(zone, name):
        browser.find_element(By.CSS_SELECTOR, f'#{zone} input').send_keys(str(photographs[name]))

    def wait_for(selector, text):
        WebDriverWait(browser, 20).until(
            lambda _: text in browser.find_element(By.CSS_SELECTOR, selector).text
        )

    browser.get(client.url)
    wait_for('#model', 'openvino')
    browser.save_screenshot(str(shots / 'empty.png'))
    accepted = browser.find_element(By.CSS_SELECTOR, '#first input').get_attribute('accept')
    assert accepted == ','.join(f'image/{kind}' for kind in ('jpeg', 'png', 'webp', 'bmp', 'tiff'))
    drop('first', 'ada')
    drop('second', 'ada')
    wait_for('#compare-result', 'Same person')
    browser.save_screenshot(str(shots / 'compare.png'))
    assert all(fits(browser, width) for width in (320, 390, 768, 1280))

    browser.find_element(By.CSS_SELECTOR, '[data-tab=people]').click()
    odd = '../AC//DC'  # browsers and servers would shorten such a path
    for name, title in (('ada', odd), ('grace', 'Grace Hopper')):
        drop('portrait', name)
        field = browser.find_element(By.ID, 'name')
        field.clear()
        field.send_keys(title)
        browser.find_element(By.CSS_SELECTOR, '#enrol > button').click()
        wait_for('#enrol-message', f'{title} is enrolled')
    browser.save_screenshot(str(shots / 'people.png'))
    assert all(fits(browser, width) for width in (320, 390, 768, 1280))

    browser.find_element(By.CSS_SELECTOR, '[data-tab=identify]').click()
    drop('probe', 'grace')
    wait_for('#identify-result .match', 'Grace Hopper')
    browser.save_screenshot(str(shots / 'identify.png'))

    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'no picture')
    photographs['broken'] = broken
    drop('probe', 'broken')
    wait_for('#identify-result .error', 'no picture')

    browser.find_element(By.CSS_SELECTOR, '[data-tab=people]').click()
    browser.find_element(By.CSS_SELECTOR, '[aria-label^="Remove .."]').click()
    wait_for('#enrol-message', f'{odd} is removed')
    assert odd not in browser.find_element(By.ID, 'identities').text
    severe = [entry for entry in browser.get_log('browser') if entry['level'] == 'SEVERE']
    # the answer 400 for the broken picture is listed, and nothing else
    assert all('400' in entry['message'] for entry in severe), severe
