# SPDX-License-Identifier: Apache-2.0
"""What is in the cache does not wait for the network; what is not is refused with the cause."""

from __future__ import annotations

import errno
import logging
import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import _tree_cache, close_session, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, XetDownloadError

from support.hub import COMMITS, PORTAL, REPO, Hub
from support.places import HUB_HOME, HUB_PORT
from vla_ros.openvla import CheckpointError, OpenVLAPolicy
from vla_ros.openvla import hub as hub_module
from vla_ros.openvla.hub import bytes_to_download, downloaded_model, resolve_model
from vla_ros.openvla.hub_failures import HubFailure, hub_calls
from vla_ros.types import Progress

NEWER = 'c' * 40
PROXY_ANSWER = (407, {'Proxy-Authenticate': 'Basic realm="office"'}, b'log in')


@pytest.fixture(autouse=True)
def own_client() -> Iterator[None]:
    """The client's connections are of one test only; another may set a proxy or an address."""
    close_session()
    yield
    close_session()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that answers may be slow: this machine may be busy."""
    assert hub_module._ANSWER_S <= 5 and hub_module._PATIENCE_S <= 60
    wait_at_most(60, monkeypatch)


def wait_at_most(seconds: float, patch: pytest.MonkeyPatch) -> None:
    for name in ('_ANSWER_S', '_PATIENCE_S'):
        patch.setattr(hub_module, name, seconds)


def silent(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    wait_at_most(0.2, patch)
    hub.is_silent = True


def silent_after_the_commit(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    wait_at_most(0.2, patch)
    hub.broken = '/tree/'
    hub.commits['main'] = NEWER


def address(text: str) -> Callable[[Hub, pytest.MonkeyPatch], None]:
    return lambda hub, patch: patch.setattr(constants, 'ENDPOINT', text)


def behind_a_proxy(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    """A proxy that wants a password before it opens a way to the hub."""
    patch.setattr(constants, 'ENDPOINT', 'https://hub.example')
    patch.setenv('HTTPS_PROXY', f'http://127.0.0.1:{HUB_PORT}')
    hub.instead = PROXY_ANSWER
    close_session()  # the proxy is looked up when a client is made


def answers(*instead: Any) -> Callable[[Hub, pytest.MonkeyPatch], None]:
    return lambda hub, patch: setattr(hub, 'instead', instead)


HTML = {'Content-Type': 'text/html'}
# What the network does, and what the error says.
NETWORKS: dict[str, tuple[Callable[[Hub, pytest.MonkeyPatch], Any], list[str]]] = {
    'a hub that accepts and never answers': (
        silent,
        ['does not answer', 'check the network'],
    ),
    'a hub that says the commit and no more': (
        silent_after_the_commit,
        ['does not answer', 'check the network'],
    ),
    'a captive portal': (
        answers(200, HTML, PORTAL),
        ['answers, but not as a hub does', 'log in to the network'],
    ),
    'a captive portal that redirects': (
        answers(302, {'Location': '/login'}, b''),
        ['answers, but not as a hub does', 'log in to the network'],
    ),
    'a server of something else': (
        answers(200, {}, b'{"sha": "../../../etc"}'),
        ['answers, but not as a hub does', 'HF_ENDPOINT'],
    ),
    'a list in place of a model': (answers(200, {}, b'[1]'), ['but not as a hub does']),
    'text that is no UTF-8': (answers(200, {}, b'"\xff"'), ['but not as a hub does']),
    'a proxy in place of the hub': (
        answers(*PROXY_ANSWER),
        ['status 407', 'a proxy that asks for a password', 'HTTPS_PROXY'],
    ),
    'a proxy before the hub': (behind_a_proxy, ['proxy', '407', 'HTTPS_PROXY']),
    'a token that is not accepted': (answers(401, {}, b''), ['status 401', 'HF_TOKEN']),
    'a token without permission': (answers(403, {}, b''), ['status 403', 'HF_TOKEN']),
    'a page that is not there': (answers(404, {}, b''), ['status 404', 'HF_ENDPOINT']),
    'a hub that fails': (answers(500, {}, b''), ['status 500', 'try again later']),
    'a gateway without hub': (answers(502, HTML, PORTAL), ['status 502', 'try again later']),
    'an address without a scheme': (
        address('hub.example'),
        ['HF_ENDPOINT is not the address of a hub', "'hub.example'", 'unset it'],
    ),
    'an address with an unknown scheme': (
        address('hhttps://hub.example'),
        ['HF_ENDPOINT is not the address of a hub', 'hhttps'],
    ),
    'an address with a port that is none': (
        address('http://127.0.0.1:99999'),
        ['http://127.0.0.1:99999'],
    ),
    'an address that cannot be split': (address('http://[::1'), ['http://[::1']),
    'a port where nobody listens': (address('http://127.0.0.1:9'), ['no network', '127.0.0.1:9']),
    'a name that nobody knows': (
        address('http://hub.invalid'),
        ['no network', 'hub.invalid', 'HF_ENDPOINT'],
    ),
    'a hub without encryption': (
        address(f'https://127.0.0.1:{HUB_PORT}'),
        ['no network', f'https://127.0.0.1:{HUB_PORT}'],
    ),
}


@pytest.fixture(params=NETWORKS)
def network(
    request: pytest.FixtureRequest, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Callable[[], None], list[str]]]:
    """Break it, and the words for it."""
    change, words = NETWORKS[request.param]
    yield lambda: change(hub, monkeypatch), words


def test_what_is_cached_is_used_whatever_the_network_does(
    network: tuple[Callable[[], None], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    change, words = network
    folder = resolve_model(REPO)
    change()
    told: list[Progress] = []
    assert resolve_model(REPO, progress=told.append) == folder
    (record,) = [one for one in caplog.records if one.name == 'vla_ros.openvla.hub']
    assert record.levelno == logging.WARNING
    said = record.getMessage()
    assert not [word for word in [REPO, 'the copy in the cache', *words] if word not in said], said
    assert 'the copy in the cache is used (commit aaaaaaaaaaaa)' in told[-1].text
    assert OpenVLAPolicy.from_pretrained(REPO, device='cpu').info.model == REPO


def test_what_is_not_cached_is_refused_with_the_cause(
    network: tuple[Callable[[], None], list[str]],
) -> None:
    change, words = network
    change()
    for ask in (resolve_model, bytes_to_download):
        with pytest.raises(CheckpointError) as caught:
            ask(REPO)
        text = str(caught.value)
        expected = [f'{REPO!r}: it is not in the local cache, and', *words]
        assert not [word for word in expected if word not in text], text
        assert '\n' not in text and f'if a folder is meant: {Path.cwd()} has none' in text
    assert downloaded_model(REPO) is None


def test_a_commit_is_used_without_asking(hub: Hub) -> None:
    folder = resolve_model(REPO, COMMITS['v1'])
    asked = len(hub.asked)
    hub.is_silent = True
    assert resolve_model(REPO, COMMITS['v1']) == folder
    assert len(hub.asked) == asked


def test_the_hub_is_asked_for_the_list_of_files_of_a_commit_without_one(
    hub: Hub, tmp_path: Path
) -> None:
    """The heads of an OpenVLA-OFT are never downloaded: the list alone tells."""
    (tmp_path / 'served' / 'action_head--1_checkpoint.pt').write_bytes(b'pickle')
    commit = COMMITS['v1']
    snapshot = Path(snapshot_download(REPO, revision=commit, allow_patterns=['*.json', '*.saf*']))
    shutil.rmtree(snapshot.parents[1] / 'trees')
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    with pytest.raises(CheckpointError, match='OpenVLA-OFT'):
        resolve_model(REPO, commit)


def test_a_newer_version_is_downloaded(hub: Hub) -> None:
    resolve_model(REPO)
    hub.commits['main'] = NEWER
    assert resolve_model(REPO).name == downloaded_model(REPO).name == NEWER


def test_a_newer_version_that_breaks_off_leaves_the_older_one(hub: Hub, tmp_path: Path) -> None:
    """Also for the next start: what the revision is, is recorded when all of it is there."""
    folder = resolve_model(REPO)
    hub.commits['main'] = NEWER
    (tmp_path / 'served' / 'another.json').write_text('{}')
    hub.lost = 'another.json'
    assert resolve_model(REPO) == folder
    assert downloaded_model(REPO) == folder
    hub.lost = ''
    assert resolve_model(REPO).name == NEWER


@pytest.mark.parametrize(
    ('name', 'is_whole'), [('config.json', False), ('tokenizer.json', False), ('other.json', True)]
)
@pytest.mark.parametrize('is_sharded', [True, False])
def test_a_snapshot_without_a_list_of_files_is_whole_if_all_parts_are_there(
    name: str, is_whole: bool, is_sharded: bool, hub: Hub, tmp_path: Path
) -> None:
    """As an older huggingface_hub left it."""
    served = tmp_path / 'served'
    (served / 'other.json').write_text('{}')
    if not is_sharded:
        (served / 'model.safetensors.index.json').unlink()
        next(served.glob('*.safetensors')).rename(served / 'model.safetensors')
    snapshot = Path(snapshot_download(REPO, allow_patterns=['*.json', '*.safetensors']))
    shutil.rmtree(snapshot.parents[1] / 'trees')
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    (snapshot / name).unlink()
    assert downloaded_model(REPO) == (snapshot if is_whole else None)
    next(snapshot.glob('*.safetensors')).unlink()
    assert downloaded_model(REPO) is None


def test_a_revision_that_the_hub_does_not_have_any_more_is_refused(hub: Hub) -> None:
    resolve_model(REPO, 'v1')
    del hub.commits['v1']
    with pytest.raises(CheckpointError, match=r"'someone/tiny-vla': it has no revision 'v1'"):
        resolve_model(REPO, 'v1')


def test_a_model_that_the_hub_does_not_give_any_more_is_used(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    folder = resolve_model(REPO)
    hub.instead = (401, {'X-Error-Code': 'GatedRepo'}, b'')
    assert resolve_model(REPO) == folder
    assert 'access to it must be granted' in caplog.text


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (OSError(errno.ENOSPC, 'No space left on device'), ['cannot be written', 'No space left']),
        (PermissionError(errno.EACCES, 'denied', '/x'), ['cannot be written', 'HF_HOME']),
        (ssl.SSLCertVerificationError('CERTIFICATE_VERIFY_FAILED'), ['certificate', 'clock']),
        (XetDownloadError('chunk 7 is damaged\nmore'), ['chunk 7 is damaged']),
        (RuntimeError(), ['RuntimeError']),
        (HFValidationError('Repo id must use'), ['Repo id must use']),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_failure_has_a_sentence(error: Exception, words: list[str]) -> None:
    with pytest.raises(HubFailure) as caught, hub_calls(None):
        raise error
    text = str(caught.value.error(REPO))
    assert not [word for word in words if word not in text], text
    assert '\n' not in text and caught.value.advice


def test_a_download_takes_what_is_needed_only(hub: Hub, tmp_path: Path) -> None:
    """Neither older checkpoints in folders, nor what a training leaves."""
    served = tmp_path / 'served'
    needed = {file.name for file in served.iterdir() if file.suffix in ('.json', '.safetensors')}
    expected = bytes_to_download(REPO)
    for name in ('checkpoint-500/config.json', 'checkpoint-500/model.safetensors'):
        (served / name).parent.mkdir(exist_ok=True)
        (served / name).write_text('{}')
    for name in ('optimizer.safetensors', 'trainer_state.json', 'scheduler.json', 'loss.json'):
        (served / name).write_text('{}')
    assert bytes_to_download(REPO) == expected
    hub.asked.clear()
    folder = resolve_model(REPO)
    assert {path.name for path in folder.iterdir()} == needed
    assert not [path for path in hub.asked if 'resolve' in path and 'checkpoint-500' in path]
    assert bytes_to_download(REPO) == 0 and downloaded_model(REPO) == folder


def test_another_model_is_refused_by_its_config_before_its_weights_are_downloaded(
    hub: Hub, tmp_path: Path
) -> None:
    config = tmp_path / 'served' / 'config.json'
    config.unlink()
    config.write_text('{"type": "pi0"}')
    with pytest.raises(CheckpointError, match=r'config\.json'):
        resolve_model(REPO)
    assert not list(HUB_HOME.rglob('*.safetensors'))
    config.unlink()
    shutil.rmtree(HUB_HOME / 'hub')
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    with pytest.raises(CheckpointError, match=r'someone/tiny-vla has no config\.json'):
        resolve_model(REPO)
