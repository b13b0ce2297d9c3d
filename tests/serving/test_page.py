"""The server's page, as someone uses it in Chromium."""

import shutil

import pytest
from playwright import sync_api

pytestmark = pytest.mark.slow
sync_api.expect.set_options(timeout=60_000)


@pytest.fixture(scope='module')
def browser():
  names = ('chromium', 'chromium-browser', 'google-chrome')
  path = next(filter(None, map(shutil.which, names)), None)
  if path is None:
    pytest.skip('install chromium to test the page')
  with sync_api.sync_playwright() as playwright:
    # Without a sandbox it runs as root, too, as in a container.
    browser = playwright.chromium.launch(executable_path=path, args=['--no-sandbox'])
    yield browser
    browser.close()


@pytest.fixture
def page(browser, server):
  """The page, opened; what it asks for elsewhere or complains of fails the test."""
  page = browser.new_page()
  page.set_default_timeout(60_000)
  asked, told = [], []
  page.on('request', lambda request: asked.append(request.url))
  page.on('pageerror', lambda error: told.append(str(error)))
  page.on('console', lambda message: told.append(message.text))
  page.goto(server.url)
  yield page
  page.close()
  assert all(url.startswith((server.url, 'data:')) for url in asked)
  # Chromium itself tells of each response that is an error.
  assert [text for text in told if 'Failed to load resource' not in text] == []


def ask(page, text, **options):
  page.get_by_label('Text').fill(text)
  for label, value in options.items():
    page.get_by_label(label).fill(str(value))
  page.get_by_role('button', name='Ask').click()
  sync_api.expect(page.get_by_role('button', name='Ask')).to_be_enabled()


def shown(page):
  """The answers, each with its score."""
  return page.get_by_role('listitem').all_inner_texts()


def expected(server, **given):
  [answer] = server.predict('a red fish', **given).body['answers']
  answers = answer.get('answers', [answer])
  return [f'{each["prediction"]}score {each["score"]:.3f}' for each in answers]


def test_a_text_is_answered(page, server):
  ask(page, 'a red fish')
  page.get_by_role('listitem').wait_for()
  assert shown(page) == expected(server)
  assert page.get_by_role('alert').inner_text() == ''
  page.get_by_label('Text').press('Control+Enter')
  page.get_by_role('listitem').wait_for()
  assert shown(page) == expected(server)


def test_several_answers_are_shown_the_best_first(page, server):
  ask(page, 'a red fish', Beams=3, Answers=3)
  page.get_by_role('listitem').nth(2).wait_for()
  assert shown(page) == expected(server, num_beams=3, num_answers=3)
  ask(page, 'a red fish', Beams='', Answers=2, Temperature=1.5, Seed=4)
  sync_api.expect(page.get_by_role('listitem')).to_have_count(2)
  assert shown(page) == expected(server, temperature=1.5, num_answers=2, seed=4)


def test_bad_input_shows_the_error_in_place_of_answers(page):
  alert = page.get_by_role('alert')
  ask(page, 'a red fish')
  page.get_by_role('listitem').wait_for()
  ask(page, 'fish ' * 50)
  sync_api.expect(alert).to_contain_text('text 1 has inputs of 51 tokens, but 20 are the most')
  assert shown(page) == []
  ask(page, 'a red fish', Answers=2)
  sync_api.expect(alert).to_contain_text('num_answers=2 needs num_beams=2 or more')
  ask(page, 'a red fish', Answers='')
  page.get_by_role('listitem').wait_for()
  assert alert.inner_text() == ''


def test_an_empty_text_is_not_sent(page):
  sent = []
  page.on('request', lambda request: sent.append(request.url))
  page.get_by_role('button', name='Ask').click()
  assert page.get_by_label('Text').evaluate('each => each.validity.valueMissing')
  assert sent == []


def test_markup_in_an_answer_stays_text(page):
  answer = {'prediction': '<img src=x onerror=alert(1)>', 'score': -1.0}
  page.route('**/predict', lambda route: route.fulfill(json={'answers': [answer]}))
  ask(page, 'a red fish')
  page.get_by_role('listitem').wait_for()
  assert shown(page) == ['<img src=x onerror=alert(1)>score -1.000']
  assert page.locator('img').count() == 0


def test_answers_of_others_than_the_server_are_errors(page):
  alert = page.get_by_role('alert')
  page.route('**/predict', lambda route: route.fulfill(status=502, body='<h1>Bad gateway</h1>'))
  ask(page, 'a red fish')
  sync_api.expect(alert).to_have_text('status 502')
  page.unroute('**/predict')
  page.route('**/predict', lambda route: route.abort())
  ask(page, 'a red fish')
  sync_api.expect(alert).to_have_text('Failed to fetch')
