"""The page in a real browser, on pictures that we draw; by mouse, and by keyboard alone."""

import importlib.resources
import json
import os
import re
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from chromium import browsers
from deploy_models import encoded_crop, portrait
from pictures import blank, encoded, scene, with_border
from vargfacenet.common.synth.face import person, render
from vargfacenet.common.synth.traits import Variation
from vargfacenet.deploy import service
from vargfacenet.deploy.web_access import Access
from web_service import HOSTS

HOSTILE = '<img src=x onerror="document.title=1">&lt;\u05d0\u05d1'  # and some Hebrew


class Page:
    """The page as somebody uses it."""

    def __init__(self, browser, folder):
        self.browser = browser
        self.folder = folder
        shots = os.environ.get('VARGFACENET_SCREENSHOTS')
        self._shots = Path(shots) if shots else None

    def open(self, client):
        self.browser.get(client.url)
        self.wait_for('#model', 'openvino')
        return self

    def get(self, selector):
        return self.browser.find_element('css selector', selector)

    def all(self, selector):
        return self.browser.execute_script(
            'return [...document.querySelectorAll(arguments[0])]', selector
        )

    def text(self, selector):
        script = 'return document.querySelector(arguments[0])?.innerText ?? ""'
        return self.browser.execute_script(script, selector)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def until(self, done, what):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 30, 0.05).until(lambda _: done(), what)

    def wait_for(self, selector, text):
        self.until(lambda: text in self.text(selector), f'{text!r} in {selector}')

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def choose(self, zone, *paths):
        """What a file dialog does."""
        self.get(f'#{zone}-file').send_keys('\n'.join(paths))

    def drop(self, selector, *files):
        """Drop files, (name, type, text of each), on an element; whether the page took the drop."""
        script = (
            'const transfer = new DataTransfer();'
            'for (const [name, type, text] of arguments[1])'
            '  transfer.items.add(new File([text], name, { type }));'
            'const event = new DragEvent("drop",'
            '  { dataTransfer: transfer, bubbles: true, cancelable: true });'
            'document.querySelector(arguments[0]).dispatchEvent(event);'
            'return event.defaultPrevented'
        )
        return self.run(script, selector, files)

    def tab(self, name):
        self.get(f'#tab-{name}').click()

    def enrol(self, name, *paths):
        self.choose('portrait', *paths)
        field = self.get('#name')
        field.clear()
        field.send_keys(name)
        self.get('#enrol > button').click()

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    @property
    def focus(self):
        """The name that is read out of what has the focus."""
        from selenium.common.exceptions import StaleElementReferenceException

        try:
            return self.browser.switch_to.active_element.accessible_name
        except StaleElementReferenceException:  # the list was drawn anew in between
            return ''

    def fits(self):
        """Whether nothing lies beyond the right edge, at four widths."""
        size = self.browser.get_window_size()
        right = 'return Math.max(...[...document.querySelectorAll("body *")].map('
        right += 'e => e.getBoundingClientRect().right)) <= innerWidth'
        fits = []
        for width in (320, 390, 768, 1280):
            self.browser.set_window_size(width, 900)
            fits.append(self.run(right))
        self.browser.set_window_size(size['width'], size['height'])
        return all(fits)

    def shoot(self, name):
        """Screenshots for people, of a desktop and of a phone, light and dark."""
        if not self._shots:
            return
        for scheme in ('light', 'dark'):
            feature = {'name': 'prefers-color-scheme', 'value': scheme}
            self.browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [feature]})
            for device, width, height in (('desktop', 1280, 800), ('phone', 390, 844)):
                sizes = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False}
                self.browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', sizes)
                self.browser.save_screenshot(str(self._shots / f'{name}-{device}-{scheme}.png'))
        self.browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
        self.browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})

    def errors(self):
        """Severe lines of the console, but for statuses of answers."""
        severe = [row for row in self.browser.get_log('browser') if row['level'] == 'SEVERE']
        return [row for row in severe if 'Failed to load resource' not in row['message']]


@pytest.fixture(scope='module')
def one_browser(tmp_path_factory):
    """For all tests here but those that need it otherwise: each takes seconds to start."""
    with browsers(tmp_path_factory.mktemp('browser')) as start:
        browser = start('use-fake-device-for-media-stream')  # a camera, that has to be allowed
        browser.execute_cdp_cmd('Network.enable', {})
        yield browser


@pytest.fixture
def page(one_browser, tmp_path):
    yield Page(one_browser, tmp_path)
    one_browser.delete_network_conditions()
    one_browser.execute_cdp_cmd('Network.setBlockedURLs', {'urls': []})
    one_browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})
    one_browser.get('about:blank')
    one_browser.get_log('browser')


@pytest.fixture
def people(page):
    """Picture files of drawn people."""
    pictures = {'ada': (1, 0), 'ada2': (1, 1), 'grace': (2, 0), 'alan': (3, 0)}
    return {
        name: page.file(f'{name}.png', encoded_crop(*which)) for name, which in pictures.items()
    }


def test_compare(page, people, client):
    page.open(client)
    label = page.get('#first label')
    assert label.text.split('\n') == ['First photograph', 'drop here or click to choose']
    accepted = page.get('#first-file').get_attribute('accept')
    assert accepted == ','.join(f'image/{kind}' for kind in ('jpeg', 'png', 'webp', 'bmp', 'tiff'))
    page.shoot('empty')
    page.choose('first', people['ada'])
    page.choose('second', people['ada2'])
    page.wait_for('#compare-result', 'cosine')
    assert page.get('#first-file').accessible_name == 'First photograph: ada.png. Choose again'
    page.shoot('compare')
    assert page.fits()
    cosine = float(re.search('cosine (-?[0-9.]+)', page.text('#compare-result'))[1])
    share = page.run(
        'const [all, part] = [".scale", ".scale .value"].map('
        '(s) => document.querySelector(s).getBoundingClientRect().width); return part / all'
    )
    assert abs(share - max(0, cosine)) < 0.01
    page.choose('first', people['ada'], people['ada'])  # both fields at once
    page.wait_for('#compare-result', 'Same person')
    assert page.errors() == []


def test_what_is_left_out_is_said(page, client):
    page.open(client)
    nothing = ('a.png', 'image/png', 'nothing')
    assert page.drop('footer', nothing) and page.browser.current_url == f'{client.url}/'
    assert page.text('#notice') == 'Drop photographs into one of the fields.'
    assert page.drop('#first', *[(f'{i}.png', 'image/png', 'nothing') for i in range(10)])
    assert page.text('#first + .under .said') == '8 photographs left out'
    assert '0.png' in page.get('#first-file').accessible_name
    assert '1.png' in page.get('#second-file').accessible_name
    page.wait_for('#compare-result .error', 'no picture')
    page.until(lambda: 'cannot be shown' in page.text('#first'), 'words for a picture')
    assert page.all('#first img') == []  # nothing broken
    page.drop('#second', ('notes.txt', 'text/plain', 'x'), ('b.pdf', 'application/pdf', 'x'))
    assert page.text('#second + .under .said') == 'notes.txt and 1 more are no pictures'
    assert '1.png' in page.get('#second-file').accessible_name
    page.tab('identify')
    page.drop('#probe', nothing, nothing, nothing)
    assert page.text('#probe + .under .said') == '2 photographs left out'
    page.drop('#probe')
    assert 'that is no file' in page.text('#probe + .under .said')
    assert page.errors() == []


def test_enrol_several_and_take_a_removal_back(page, people, start_service):
    client = start_service(keep_crops=True)
    page.open(client).tab('people')
    page.enrol(HOSTILE, people['ada'], people['ada2'])
    page.wait_for('#enrol-message', f'{HOSTILE} is enrolled')
    assert page.get('#name').get_attribute('value') == '' and page.all('#portrait img') == []
    assert page.get('#identities .name').text.endswith('(2 faces)')
    page.until(
        lambda: page.run('return document.querySelector("#identities img")?.naturalWidth') == 112,
        'thumbnail',
    )

    many = [
        page.file(name, encoded_crop(*which))
        for name, which in (
            ('Grace_Hopper_0001.png', (2, 0)),
            ('Alan-Turing (2).png', (3, 0)),
            ('Again.png', (1, 0)),
        )
    ]
    many.append(page.file('Nobody.png', encoded(blank(), '.png')))
    page.choose('portrait', *many)
    page.get('#by-file').click()
    assert page.text('#plan') == 'Names: Grace Hopper, Alan-Turing, Again, Nobody'
    page.get('#enrol > button').click()
    page.wait_for('#enrol-message', '2 people are enrolled')
    assert list(client.get('/api/info').json['identities']) == [
        HOSTILE,
        'Alan-Turing',
        'Grace Hopper',
    ]
    doubtful, faceless = page.all('#refused li')
    assert 'no face found' in faceless.text and not faceless.find_elements('tag name', 'button')
    assert 'Again' in doubtful.text and page.focus == 'Name'
    page.shoot('people')
    assert page.fits()
    doubtful.find_element('tag name', 'button').click()
    page.wait_for('#enrol-message', 'Again is enrolled')
    assert len(page.all('#refused li')) == 1

    before = client.get('/api/info').json['identities']
    page.get(f"[aria-label='Remove {HOSTILE}']").click()
    page.wait_for('#enrol-message', 'is removed; 30 s to undo it')
    assert page.focus == f'Undo: keep {HOSTILE}'
    assert HOSTILE not in client.get('/api/info').json['identities']
    page.shoot('removed')
    page.get('.gone button').click()
    page.wait_for('#enrol-message', 'is enrolled again')
    assert page.focus == f'Remove {HOSTILE}'
    assert client.get('/api/info').json['identities'] == before
    assert page.browser.title == 'VarGFaceNet' and page.errors() == []


def group_of(*identities):
    """A photograph of people beside each other, the later the smaller."""
    faces = [
        with_border(render(person(0, identity), Variation(), 200 - 30 * place))[0]
        for place, identity in enumerate(identities)
    ]
    height = max(len(face) for face in faces)
    return np.hstack(
        [np.pad(face, ((0, height - len(face)), (0, 0), (0, 0)), 'edge') for face in faces]
    )


@pytest.fixture
def group(page):
    """A file with three people, 1 the second largest, and its bytes."""
    content = encoded(group_of(4, 1, 6), '.png')
    return page.file('group.png', content), content


def check_boxes(page, zone, found):
    """The buttons of a zone lie where its picture shows the faces."""
    page.until(lambda: len(page.all(f'#{zone} .boxes button')) == len(found), 'boxes')
    left, top, width, natural = page.run(
        'const image = document.querySelector(arguments[0]), at = image.getBoundingClientRect();'
        'return [at.left, at.top, at.width, image.naturalWidth]',
        f'#{zone} img',
    )
    zoom = width / natural
    boxes = page.run(
        'return [...document.querySelectorAll(arguments[0])].map((box) => {'
        'const at = box.getBoundingClientRect(); return [at.left, at.top, at.width, at.height] })',
        f'#{zone} .boxes button',
    )
    for at, (x, y, wide, high) in zip(boxes, (face['box'] for face in found)):
        assert np.allclose(at, [left + zoom * x, top + zoom * y, zoom * wide, zoom * high], atol=2)


def test_identify_a_face_of_a_group(page, client, group):
    path, content = group
    answers = client.post('/api/identify', photograph=content, face='all').json
    assert len(answers['found']) == 3
    one = page.file('one.png', encoded(scene(1), '.png'))
    page.open(client).tab('identify')
    page.choose('probe', one)
    page.wait_for('#identify-result', 'Nobody is enrolled yet')
    page.tab('people')
    page.enrol(HOSTILE, one)
    page.wait_for('#enrol-message', f'{HOSTILE} is enrolled')
    page.tab('identify')  # asks again, now that somebody is there
    page.until(lambda: page.text('#identify-result .decision') == HOSTILE, 'the new one')
    page.tab('people')
    assert page.text('#identities .thumb') == '<O'  # initials, since no crop is kept

    page.tab('identify')
    page.choose('probe', path)
    page.wait_for('#identify-choice', '3 faces')
    check_boxes(page, 'probe', answers['found'])
    names = names_in(client, content)
    for which in (1, 2, 0):
        button = page.all('#probe .boxes button')[which]
        button.click()
        decided = names[which]
        page.until(
            lambda text=decided: page.text('#identify-result .decision') == text,
            f'{decided} first',
        )
        assert button.get_attribute('aria-pressed') == 'true'
        assert 'for 1 enrolled face: of people who are not enrolled' in page.text(
            '#identify-result'
        )
    page.shoot('identify')
    page.get('#identify-choice button').click()
    page.until(lambda: len(page.all('#identify-result li')) == 3, 'a line for each face')
    assert [name.text for name in page.all('#identify-result .name')] == [
        f'{index + 1}: {name}' for index, name in enumerate(names)
    ]
    page.shoot('group')
    assert page.fits() and page.browser.title == 'VarGFaceNet' and page.errors() == []


def names_in(client, photograph):
    """What the page is to say of every face."""
    answers = client.post('/api/identify', photograph=photograph, face='all').json['faces']
    return [row['verdict']['name'] or 'Nobody who is enrolled' for row in answers]


def embedding_in(client, photograph, which):
    """(1, D) float32 of one face of a photograph."""
    (face,) = client.post('/api/embed', photograph=photograph, face=str(which)).json['faces']
    return np.array([face['embedding']], np.float32)


def test_faces_of_a_picture_that_is_not_shown(page, people, client, group):
    page.open(client).tab('people')
    page.enrol('Ada', people['ada'])
    page.wait_for('#enrol-message', 'Ada is enrolled')
    page.tab('identify')
    page.choose('probe', page.file('group.tiff', encoded(group_of(4, 1, 6), '.tiff')))
    page.until(lambda: len(page.all('#identify-choice button')) == 4, 'buttons beside it')
    assert 'cannot be shown' in page.text('#probe') and page.all('#probe .boxes button') == []
    second = page.all('#identify-choice button')[1]
    second.click()
    page.until(lambda: second.get_attribute('aria-pressed') == 'true', 'an answer for it')
    name = names_in(client, group[1])[1]
    assert second.text == ('2' if name.startswith('Nobody') else name)
    assert page.text('#identify-result .decision') == name
    page.shoot('tiff')
    assert page.fits() and page.errors() == []


def test_compare_a_face_of_a_group(page, people, client, group):
    path, content = group
    page.open(client)
    page.choose('first', path, people['ada'])
    page.wait_for('#first-choice', '3 faces; choose one in the photograph')
    found = client.post('/api/embed', photograph=content).json['found']
    check_boxes(page, 'first', found)
    assert page.text('#second-choice') == '' and page.all('#second .boxes button') == []
    crop = Path(people['ada']).read_bytes()
    for which in (1, 2, 0):
        button = page.all('#first .boxes button')[which]
        button.click()
        ask = {'first': content, 'second': crop, 'first_face': str(which)}
        cosine = client.post('/api/compare', **ask).json['cosine']
        page.wait_for('#compare-result', f'cosine {cosine:.3f}')
        assert button.get_attribute('aria-pressed') == 'true'
    assert button.accessible_name == 'Face 1 of 3'
    page.shoot('compare-group')
    assert page.fits()
    page.choose('first', people['ada'])  # another photograph, another choice
    page.wait_for('#compare-result', 'Same person')
    assert page.text('#first-choice') == '' and page.all('#first .boxes button') == []
    assert page.errors() == []


def test_faces_are_chosen_by_keyboard(page, people, client, group):
    """In compare and in identify: from the field through the boxes, which keep the focus."""
    from selenium.webdriver.common.keys import Keys

    path, content = group
    crop = Path(people['ada']).read_bytes()
    client.gallery.enrol(['Ada'], embedding_in(client, content, 1), ['test'])
    page.open(client)
    page.choose('first', path)
    page.choose('second', people['ada'])
    page.until(lambda: len(page.all('#first .boxes button')) == 3, 'boxes')
    page.run('document.querySelector("#first-file").focus()')
    for which, key in ((0, Keys.ENTER), (1, Keys.SPACE), (2, Keys.ENTER)):
        page.keys(Keys.TAB)
        assert page.focus == f'Face {which + 1} of 3'
        page.keys(key)
        cosine = client.post('/api/compare', first=content, second=crop, first_face=str(which))
        page.wait_for('#compare-result', f'cosine {cosine.json["cosine"]:.3f}')
        focused = page.browser.switch_to.active_element
        assert focused.get_attribute('aria-pressed') == 'true'
    page.keys(Keys.TAB)
    assert page.focus == 'Use the camera: First photograph'

    page.tab('identify')
    page.choose('probe', path)
    page.until(lambda: len(page.all('#probe .boxes button')) == 3, 'boxes')
    names = names_in(client, content)
    assert names[1] == 'Ada'
    page.run('document.querySelector("#probe-file").focus()')
    page.keys(Keys.TAB, Keys.TAB, Keys.SPACE)
    page.until(lambda: page.focus == 'Face 2 of 3: Ada', 'its name is read out')
    page.wait_for('#identify-result .decision', 'Ada')
    page.keys(Keys.TAB, Keys.TAB)
    assert page.focus == 'Use the camera: Who is it?'
    page.keys(Keys.TAB)
    assert page.focus == 'Everybody'
    page.keys(Keys.ENTER)
    page.until(lambda: len(page.all('#identify-result li')) == 3, 'a line for each face')
    assert page.focus == 'Everybody' and page.errors() == []


def crowd():
    """18 people in three rows, at the edges too; the detector sees some more."""
    faces = [with_border(render(person(0, who), Variation(), 80))[0] for who in range(18)]
    return np.vstack([np.hstack(faces[row : row + 6]) for row in (0, 6, 12)])


def test_numbers_do_not_hide_the_faces_of_a_crowd(page, client):
    content = encoded(crowd(), '.png')
    name = 'A name that is longer than the face is wide'
    client.gallery.enrol([name], embedding_in(client, content, 0), ['test'])
    found = client.post('/api/embed', photograph=content).json['found']
    assert len(found) >= 18
    page.open(client).tab('identify')
    page.choose('probe', page.file('crowd.png', content))
    page.wait_for('#identify-choice', f'{len(found)} faces')
    page.get('#identify-choice button').click()
    page.wait_for('#identify-result', f'{len(found) - 16} smaller faces not looked at')
    first = page.all('#probe .boxes button')[0]
    assert first.accessible_name == f'Face 1 of {len(found)}: {name}' and first.text == '1'
    page.shoot('crowd')
    for width, small in ((390, True), (1280, True), (4000, False)):
        sizes = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False}
        page.browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', sizes)
        if width == 4000:  # faces as large as a photograph of few people has them
            page.run('document.querySelector("main").style.maxWidth = "none"')
        outside = page.run(
            'const zone = document.querySelector("#probe").getBoundingClientRect();'
            'return [...document.querySelectorAll("#probe .boxes button")].map((button) => {'
            '  const box = button.getBoundingClientRect();'
            '  const at = button.firstElementChild.getBoundingClientRect();'
            '  const seen = at.height > 0 && at.top >= zone.top && at.bottom <= zone.bottom;'
            '  return [seen, at.top >= box.bottom || at.bottom <= box.top] })'
        )
        assert outside == [[True, small]] * len(found), width
    page.browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    assert page.errors() == []


def test_fifteen_portraits_in_a_field(page, people, client):
    page.open(client).tab('people')
    for count, more in ((14, ''), (15, '+ 1'), (30, '+ 16')):
        page.choose('portrait', *[people['ada']] * count)
        page.until(lambda: len(page.all('#portrait img')) == 14, 'pictures')
        assert page.text('#portrait .stage > span') == more
        assert page.get('#portrait-file').accessible_name.count('ada.png') == count
        zone = page.get('#portrait').rect
        for node in page.all('#portrait .stage > *'):
            box = node.rect
            assert zone['y'] <= box['y'] and box['y'] + box['height'] <= zone['y'] + zone['height']
    page.shoot('fifteen')


def test_the_page_tells_no_path_of_the_server(page, client, web_pool):
    page.open(client)
    assert page.text('#model') == f'Model {Path(web_pool.model).name}, engine openvino'
    assert str(Path(web_pool.model).parent) not in json.dumps(client.get('/api/info').json)


def test_a_stranger_gets_no_name(page, people, start_service, web_pool):
    row = web_pool.embedder.embed(portrait(1)[None])
    for candidates, words in ((0, []), (1, ['Below the threshold: somebody else'])):
        client = start_service(f'gallery{candidates}', candidates=candidates)
        client.gallery.enrol(['Far', 'Farther'], np.concatenate([-row, -row]), ['test'] * 2)
        page.open(client).tab('identify')
        page.choose('probe', people['ada'])
        page.wait_for('#identify-result .decision', 'Nobody who is enrolled')
        assert page.text('#identify-result .note') == (
            'threshold 0.500 for 2 enrolled faces: of people who are not enrolled, 1 in 5 is named '
            "(the model's thresholds do not reach 1 in 100)"
        )
        assert [note.text for note in page.all('#identify-result .note')][1:] == words
        names = page.all('#identify-result .name')
        assert len(names) == candidates
        assert all(int(name.value_of_css_property('font-weight')) < 500 for name in names)
        page.shoot(f'stranger{candidates}')


def test_a_model_without_thresholds(monkeypatch, page, people, start_service, web_pool):
    monkeypatch.setitem(web_pool.embedder.record, 'verification', [])
    client = start_service(candidates=1)
    page.open(client)
    assert not any(label.is_displayed() for label in page.all('.rate'))
    page.choose('first', people['ada'], people['ada'])
    page.wait_for('#compare-result .decision', 'No decision')
    assert page.all('.mark') == []
    page.tab('people')
    page.enrol('Ada', people['ada'])
    page.wait_for('#enrol-message', 'Ada is enrolled')
    page.tab('identify')
    page.choose('probe', people['ada'])
    page.wait_for('#identify-result .decision', 'No decision')
    notes = [note.text for note in page.all('#identify-result .note')]
    assert notes == ['the model has no thresholds', 'The most alike']
    assert page.text('#identify-result .name') == 'Ada' and page.errors() == []


def test_by_keyboard_alone(page, people, client):
    from selenium.webdriver.common.keys import Keys

    page.open(client)
    page.keys(Keys.TAB)
    assert page.focus == 'Compare'
    page.keys(Keys.ARROW_LEFT)
    assert page.focus == 'People' and page.get('#people').is_displayed()
    page.keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.END)
    tabs = page.all('[role=tab]')
    assert [tab.get_attribute('aria-selected') for tab in tabs] == ['false', 'false', 'true']
    assert [page.get(f'#{tab.get_attribute("aria-controls")}').is_displayed() for tab in tabs] == [
        False,
        False,
        True,
    ]
    page.keys(Keys.TAB)
    assert page.focus == 'Portraits drop here or click to choose'
    page.browser.switch_to.active_element.send_keys(people['ada'])  # what the dialog does
    page.keys(Keys.TAB)
    assert page.focus == 'Use the camera: Portraits'
    page.keys(Keys.TAB)
    assert page.focus == 'Name'
    page.keys('Ada', Keys.ENTER)
    page.wait_for('#enrol-message', 'Ada is enrolled')
    assert page.focus == 'Name'
    page.keys(Keys.TAB, Keys.TAB, Keys.TAB)
    assert page.focus == 'Remove Ada'
    page.keys(Keys.ENTER)
    page.until(lambda: page.focus == 'Undo: keep Ada', 'undo has the focus')
    page.keys(Keys.SPACE)
    page.until(lambda: page.focus == 'Remove Ada', 'and the row again')

    page.get('#tab-people').send_keys(Keys.ARROW_LEFT, Keys.TAB)
    while 'Who is it?' not in page.focus:
        page.keys(Keys.TAB)
    page.browser.switch_to.active_element.send_keys(people['ada'])
    page.wait_for('#identify-result .decision', 'Ada')
    page.keys(Keys.TAB, Keys.ENTER)
    assert page.get('#camera').is_displayed()
    page.keys(Keys.ESCAPE)
    assert not page.get('#camera').is_displayed() and page.focus == 'Use the camera: Who is it?'
    assert page.errors() == []


def test_slow_offline_and_busy(page, people, client):
    page.open(client)
    network = {'offline': False, 'latency': 0, 'throughput': 500 << 10}
    page.browser.set_network_conditions(**network)
    noise = np.random.RandomState(0).randint(0, 256, (400, 400, 3)).astype(np.uint8)
    large = page.file('large.png', encoded(noise, '.png'))
    page.choose('first', large, large)
    seen = []

    def told():
        bar = page.run('return document.querySelector("#compare-result progress")?.value ?? 0')
        seen.append((page.text('#compare-result'), bar))
        return 'face' in seen[-1][0]

    page.until(told, 'an answer')
    sending = [share for text, share in seen if 'Sending' in text]
    assert len(sending) > 2 and sending == sorted(sending) and sending[0] < sending[-1] < 1

    page.browser.set_network_conditions(**{**network, 'offline': True})
    page.choose('first', people['ada'], people['ada'])
    page.wait_for('#compare-result .error', 'The server does not answer')
    page.shoot('offline')
    page.browser.delete_network_conditions()
    page.get('#compare-result button').click()
    page.wait_for('#compare-result', 'Same person')

    page.tab('people')
    other = sqlite3.connect(client.gallery.folder / 'gallery.sqlite', check_same_thread=False)
    other.execute('BEGIN IMMEDIATE')
    page.enrol('Ada', people['ada'])
    page.wait_for('#enrol-message', 'The server is busy; trying again in')
    threading.Timer(0.5, other.rollback).start()
    page.wait_for('#enrol-message', 'Ada is enrolled')
    other.close()
    assert page.errors() == []

    page.browser.execute_cdp_cmd('Network.setBlockedURLs', {'urls': ['*/api/info']})
    page.browser.get(client.url)
    page.wait_for('#notice', 'The server does not answer')
    page.browser.execute_cdp_cmd('Network.setBlockedURLs', {'urls': []})
    page.get('#notice button').click()
    page.wait_for('#model', 'openvino')
    assert page.text('#notice') == ''


def test_the_camera(start_browser, tmp_path, client):
    media = ('use-fake-device-for-media-stream', 'use-fake-ui-for-media-stream')
    page = Page(start_browser(*media), tmp_path).open(client)
    page.tab('identify')
    page.get('#probe + .under button').click()
    page.until(lambda: page.focus == 'Take the photograph', 'the camera')
    page.shoot('camera')
    page.get('#shoot').click()
    page.wait_for('#identify-result .error', 'no face found')  # on Chromium's test picture
    assert 'camera.jpg' in page.get('#probe-file').accessible_name
    assert page.run('return document.getElementById("camera-video").srcObject') is None
    assert page.errors() == []


def test_a_camera_that_is_refused(page, client):
    page.open(client)
    denied = {'permission': {'name': 'camera'}, 'setting': 'denied', 'origin': client.url}
    page.browser.execute_cdp_cmd('Browser.setPermission', denied)
    page.get('#first + .under button').click()
    page.wait_for('#camera-said', 'This page may not use the camera')
    assert not page.get('#shoot').is_enabled()
    page.get('#camera-close').click()
    assert page.focus == 'Use the camera: First photograph' and page.errors() == []


def test_a_page_from_elsewhere_without_tls(start_browser, tmp_path, start_service):
    name = 'faces.example'
    client = start_service(access=Access(HOSTS | {name}))
    browser = start_browser(f'host-resolver-rules=MAP {name} 127.0.0.1')
    page = Page(browser, tmp_path)
    browser.get(f'http://{name}:{client.port}')
    page.wait_for('#model', 'openvino')
    page.get('#first + .under button').click()
    page.wait_for('#camera-said', 'over HTTPS or from this machine only')
    page.get('#camera-close').click()
    crop = page.file('a.png', encoded_crop(1))
    browser.set_network_conditions(offline=True, latency=0, throughput=1 << 20)
    page.choose('first', crop, crop)
    page.wait_for('#compare-result .error', 'This device is offline.')


def test_when_it_is_too_late_to_undo(monkeypatch, page, people, client):
    monkeypatch.setattr(service, 'UNDO_SECONDS', 2)
    page.open(client).tab('people')
    page.enrol('Ada', people['ada'])
    page.wait_for('#enrol-message', 'Ada is enrolled')
    page.get('[aria-label="Remove Ada"]').click()
    page.until(lambda: page.focus == 'Undo: keep Ada', 'undo')
    page.until(lambda: page.focus == 'Name', 'the focus is not lost with the row')
    assert page.text('#identities') == '' and page.text('#count') == '0 people'


def violations(page):
    return page.browser.execute_async_script(
        'const done = arguments[arguments.length - 1];'
        'axe.run().then((found) => done(found.violations.map('
        '  (one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`)))'
    )


@pytest.mark.parametrize(('scheme', 'width'), [('light', 1280), ('dark', 1280), ('dark', 390)])
def test_axe_finds_no_violation(scheme, width, page, people, client, group):
    package = pytest.importorskip('axe_core_python')
    feature = {'name': 'prefers-color-scheme', 'value': scheme}
    page.browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [feature]})
    sizes = {'width': width, 'height': 844, 'deviceScaleFactor': 1, 'mobile': False}
    page.browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', sizes)
    page.open(client)
    script = importlib.resources.files(package).joinpath('axe.min.js').read_text(encoding='utf-8')
    page.run(script)
    assert violations(page) == []
    page.choose('first', group[0], people['grace'])
    page.until(lambda: len(page.all('#first .boxes button')) == 3, 'boxes')
    page.wait_for('#compare-result', 'cosine')
    assert violations(page) == []
    page.tab('people')
    page.enrol('Ada', people['ada'])
    page.wait_for('#enrol-message', 'Ada is enrolled')
    page.enrol('Eva', people['ada2'] if scheme == 'light' else people['ada'])
    page.until(lambda: page.all('#refused li') or page.all('#identities li:nth-child(2)'), 'Eva')
    assert violations(page) == []
    page.get('[aria-label="Remove Ada"]').click()
    page.wait_for('#enrol-message', 'is removed')
    assert violations(page) == []
    page.tab('identify')
    page.choose('probe', group[0])
    page.until(lambda: page.text('#identify-result') not in ('', 'Looking …'), 'an answer')
    assert violations(page) == []
    page.browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
