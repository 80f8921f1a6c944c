# SPDX-License-Identifier: Apache-2.0
"""Writes the images of docs/console.md: fake robots, the real server and page.

``PYTHONPATH=.:test .venv/bin/python -m support.page_images docs`` makes them again in a minute.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from support.browser import FakeServer, browsing, fake_server
from support.places import ROOT

PHONE = {'viewport': {'width': 390, 'height': 844}, 'is_mobile': True, 'has_touch': True}
MODEL = (16, 108, 464, 556)  # where docs/operator_view.png has the model's image
GAP = 24


def main(folder: Path) -> None:
    expect.set_options(timeout=30_000)
    with tempfile.TemporaryDirectory() as place, browsing() as browser:
        image = Path(place) / 'model.png'
        Image.open(ROOT / 'docs' / 'operator_view.png').crop(MODEL).save(image)
        with fake_server('left,right', '--image', str(image)) as server:
            write(folder / 'console_laptop.png', laptop(browser, server))
        with fake_server('-', '--image', str(image)) as server:
            write(folder / 'console_phone.png', beside(phones(browser, server)))


def laptop(browser: Browser, server: FakeServer) -> bytes:
    page = browser.new_page(viewport={'width': 1440, 'height': 1090})
    page.goto(server.url)
    for text, seconds in (('open the drawer', 8), ('fail', 3), ('pick up the blue block', 25)):
        instruct(page, text)
        page.wait_for_timeout(seconds * 1000)
    page.locator('vla-doctor button').click()
    expect(page.locator('.findings li')).to_have_count(3)
    page.wait_for_timeout(4000)
    return page.screenshot()


def phones(browser: Browser, server: FakeServer) -> list[bytes]:
    """Acting; stopped, in the dark; without a connection."""
    page = browser.new_context(**PHONE).new_page()
    page.goto(server.url)
    instruct(page, 'pick up the blue block')
    expect(page.locator('.compass svg')).to_be_visible()
    page.evaluate('scrollTo(0, 0)')
    images = [page.screenshot()]
    page.emulate_media(color_scheme='dark')
    page.locator('button.stop').click()
    expect(page.locator('vla-stop .result')).to_have_text('Stopped, confirmed')
    page.get_by_role('button', name='Reset…').click()
    page.evaluate('scrollTo(0, 0)')
    images.append(page.screenshot())
    page.emulate_media(color_scheme='light')
    server.kill()
    page.wait_for_timeout(4000)
    page.locator('button.stop').click()
    expect(page.locator('vla-stop .result')).to_contain_text('Not confirmed')
    return [*images, page.screenshot()]


def instruct(page: Page, text: str) -> None:
    page.get_by_role('textbox', name='Instruction').fill(text)
    page.get_by_role('button', name='Instruct', exact=True).click()


def beside(images: list[bytes]) -> bytes:
    opened = [Image.open(io.BytesIO(one)) for one in images]
    width = sum(one.width for one in opened) + GAP * (len(opened) - 1)
    whole = Image.new('RGB', (width, opened[0].height), (160, 166, 175))
    left = 0
    for one in opened:
        whole.paste(one, (left, 0))
        left += one.width + GAP
    buffer = io.BytesIO()
    whole.save(buffer, 'png')
    return buffer.getvalue()


def write(file: Path, png: bytes) -> None:
    Image.open(io.BytesIO(png)).convert('RGB').save(file, optimize=True)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
