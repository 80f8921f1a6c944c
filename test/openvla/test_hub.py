# SPDX-License-Identifier: Apache-2.0
"""Models from the hub: a small hub on this machine answers like the real one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import _tree_cache, constants, snapshot_download

from support.family_golden import PRO_CASE
from support.hub import COMMITS, REPO, Hub
from support.places import HUB_HOME
from vla_ros.doctor.checkpoint import check_checkpoint
from vla_ros.doctor.facts import Facts, Setup
from vla_ros.doctor.findings import Finding, Level, fail, warn
from vla_ros.openvla import CheckpointError, OpenVLAPolicy
from vla_ros.openvla.hub import bytes_to_download, downloaded_model, resolve_model
from vla_ros.policy_request import PolicyRequest
from vla_ros.types import Progress


def test_a_model_is_downloaded_with_progress_and_without_code(hub: Hub) -> None:
    told: list[Progress] = []
    folder = resolve_model(REPO, progress=told.append)
    assert folder.is_relative_to(HUB_HOME)
    assert folder.name == COMMITS['main']
    assert sorted(file.suffix for file in folder.iterdir()) == ['.json'] * 5 + ['.safetensors']
    assert not [path for path in hub.asked if path.endswith(('.py', '.bin'))]
    assert any('someone/tiny-vla' in progress.text for progress in told)
    policy = OpenVLAPolicy.from_pretrained(REPO, device='cpu')
    assert policy.info.model == REPO


def test_a_converted_model_is_downloaded_too(hub: Hub, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / 'served')
    shutil.copytree(PRO_CASE.folder(), tmp_path / 'served')
    policy = OpenVLAPolicy.from_pretrained(REPO, device='cpu')
    assert policy.spec(PRO_CASE.facts['unnorm_key']).cameras == PRO_CASE.layout.cameras


def test_a_model_that_was_not_converted_is_refused(hub: Hub, tmp_path: Path) -> None:
    """Its config.json names a Qwen2."""
    shutil.rmtree(tmp_path / 'served')
    shutil.copytree(PRO_CASE.folder(), tmp_path / 'served', ignore=shutil.ignore_patterns('vla_*'))
    with pytest.raises(CheckpointError, match='is of a VLA-Adapter or MiniVLA'):
        resolve_model(REPO)
    assert not list(HUB_HOME.rglob('*.safetensors'))


def test_the_revision_is_the_one_asked_for(hub: Hub) -> None:
    assert resolve_model(REPO, revision='v1').name == COMMITS['v1']


def test_what_a_download_takes(hub: Hub, tiny_checkpoint: Path) -> None:
    assert downloaded_model(REPO) is None
    assert bytes_to_download(REPO) == sum(file.stat().st_size for file in tiny_checkpoint.iterdir())
    asked = len(hub.asked)
    folder = resolve_model(REPO)
    assert downloaded_model(REPO) == folder
    assert bytes_to_download(REPO) == 0
    assert len(hub.asked) > asked
    for path in ((folder / 'config.json').resolve(), folder / 'config.json'):
        path.unlink()  # as after an interrupted download
    assert downloaded_model(REPO) is None
    assert bytes_to_download(REPO) > 0


@pytest.fixture
def oft_hub(hub: Hub, tmp_path: Path) -> Hub:
    """Its files are pickles, which are never downloaded."""
    for name in ('action_head--150000_checkpoint.pt', 'proprio_projector--150000_checkpoint.pt'):
        (tmp_path / 'served' / name).write_bytes(b'pickle')
    return hub


IS_OFT = r'^someone/tiny-vla is an OpenVLA-OFT folder: it has action_head--150000_checkpoint\.pt, '


@pytest.mark.usefixtures('oft_hub')
def test_another_model_is_refused_before_its_weights_are_downloaded() -> None:
    with pytest.raises(CheckpointError, match=IS_OFT):
        resolve_model(REPO)
    assert not list(HUB_HOME.rglob('*.safetensors'))
    with pytest.raises(CheckpointError, match=IS_OFT):
        bytes_to_download(REPO)


@pytest.mark.usefixtures('oft_hub')
def test_another_model_that_is_cached_is_refused_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_download(REPO, allow_patterns=['*.json', '*.safetensors'])  # by whatever tool
    (found,) = check_checkpoint(Facts(Setup(), request=PolicyRequest(REPO)))
    assert found.level is Level.FAIL and re.search(IS_OFT, found.text)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(CheckpointError, match=IS_OFT):
        resolve_model(REPO)


def test_another_model_whose_list_of_files_is_not_cached_is_told_by_its_folder(
    hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / 'served' / 'adapter_config.json').write_text('{}')
    snapshot = Path(snapshot_download(REPO, allow_patterns=['*.json', '*.safetensors']))
    shutil.rmtree(snapshot.parents[1] / 'trees')
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    assert downloaded_model(REPO) == snapshot
    (found,) = check_checkpoint(Facts(Setup(), request=PolicyRequest(REPO)))
    assert found.level is Level.FAIL and 'adapter_config.json' in found.text
    with pytest.raises(CheckpointError, match=r'adapter_config\.json'):
        OpenVLAPolicy.from_pretrained(str(snapshot), device='cpu')


def test_the_doctor_refuses_another_model_before_the_download(oft_hub: Hub) -> None:
    (found,) = check_checkpoint(Facts(Setup(), request=PolicyRequest(REPO)))
    assert found.level is Level.FAIL and re.search(IS_OFT, found.text)
    assert not [path for path in oft_hub.asked if path.endswith('.safetensors?')]


def test_an_interrupted_download_without_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_download(REPO, allow_patterns=['config.json'])
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(CheckpointError, match='not in the local cache'):
        resolve_model(REPO)


def test_what_is_on_this_machine_is_found_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    folder = resolve_model(REPO)
    asked = len(hub.asked)
    assert downloaded_model(REPO) == folder
    assert downloaded_model(str(tmp_path)) == tmp_path
    assert downloaded_model('someone/else') is None
    with pytest.raises(CheckpointError, match=r"'\./openvla' is not a folder"):
        downloaded_model('./openvla')
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ('repo_id', 'revision', 'why'),
    [
        ('nobody/nothing', None, 'the hub has no such model'),
        (REPO, 'v9', "it has no revision 'v9'"),
    ],
)
def test_downloads_that_can_not_be(hub: Hub, repo_id: str, revision: str, why: str) -> None:
    with pytest.raises(CheckpointError, match=f'{repo_id}.*: {why}'):
        bytes_to_download(repo_id, revision)


def test_what_a_download_takes_is_not_known_without_network() -> None:
    with pytest.raises(CheckpointError, match=r'not in the local cache.*no network'):
        bytes_to_download('openvla/openvla-7b')


def test_the_doctor_says_what_a_download_takes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def say() -> Finding:
        (found,) = check_checkpoint(Facts(Setup(), request=PolicyRequest(REPO)))
        return found

    gigabytes = f'{bytes_to_download(REPO) / 1e9:.1f} GB'
    assert say() == warn(
        f'{REPO} is not downloaded yet: {gigabytes}',
        f'hf download {REPO}; otherwise the node does it, within load_timeout_s',
    )
    with monkeypatch.context() as full:
        full.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 10, 0))
        assert say() == fail(
            f'{REPO} is not downloaded yet: {gigabytes}, but the disk of {HUB_HOME}/hub has '
            '0.0 GB free',
            'free disk space, or set HF_HOME to a folder on a larger disk',
        )
    resolve_model(REPO)
    assert say().level is Level.OK


def test_an_unknown_revision(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match=r"'someone/tiny-vla': it has no revision 'v9'"):
        resolve_model(REPO, revision='v9')


def test_an_unknown_model(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match=r"'nobody/nothing': the hub has no such model"):
        resolve_model('nobody/nothing')


def test_no_network() -> None:
    with pytest.raises(CheckpointError, match=r'not in the local cache.*no network'):
        resolve_model('openvla/openvla-7b')


def test_offline_mode_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_model(REPO)
    asked = len(hub.asked)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert resolve_model(REPO).name == COMMITS['main']
    with pytest.raises(CheckpointError, match='HF_HUB_OFFLINE'):
        resolve_model('someone/else')
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ('model', 'words'),
    [
        ('', 'model is not set'),
        ('/nowhere/openvla', "'/nowhere/openvla' is not a folder"),
        ('./openvla', "'./openvla' is not a folder"),
        ('openvla', "'openvla' is not a folder"),
        ('a/b/c', "'a/b/c' is not a folder"),
        ('open vla/openvla-7b', 'open vla/openvla-7b'),
        ('x' * 300, 'cannot be looked up'),
        ('~nosuchuser/openvla', 'cannot be looked up'),
    ],
)
def test_names_that_are_neither_folder_nor_hub_id(model: str, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_model(model)
    assert words in str(caught.value)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='leave the revision out, or set model to a hub id'):
        resolve_model(str(tmp_path), revision='main')
    assert resolve_model(str(tmp_path)) == tmp_path
