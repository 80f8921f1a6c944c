# SPDX-License-Identifier: Apache-2.0
"""The registry: which kind owns a model, and the way from a request to a policy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from support.places import GOLDEN, ROOT
from vla_ros.errors import VlaError
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.errors import PlacementError, PreprocessingError, UnnormKeyError
from vla_ros.openvla.kind import OpenVLA
from vla_ros.policies import (
    KINDS,
    PolicyRequest,
    center_crop,
    inspect,
    kind_of,
    load_policy,
    product,
    recipe,
    resolve,
    resolve_all,
)
from vla_ros.scripted import ScriptedPolicy
from vla_ros.scripted.kind import Scripted
from vla_ros.types import PolicyError

CHECKPOINT = str(GOLDEN / 'openvla_tiny')


@pytest.mark.parametrize(
    ('model', 'kind'),
    [
        ('scripted', Scripted),
        ('scripted:nan@5', Scripted),
        ('scripted/policy', OpenVLA),
        ('openvla/openvla-7b', OpenVLA),
        ('./models/blocks', OpenVLA),
        ('', OpenVLA),
    ],
)
def test_a_model_is_of_one_kind(model: str, kind: type) -> None:
    assert type(kind_of(model)) is kind


def test_each_kind_is_a_room_of_its_own() -> None:
    rooms = [name.split('.')[1] for name in KINDS]
    assert len(set(rooms)) == len(rooms)
    for name in KINDS:
        file = name.partition(':')[0].replace('.', '/') + '.py'
        assert (ROOT / file).is_file()


def test_products_have_the_first_values_first() -> None:
    base = PolicyRequest('model', rotate_180=True)
    requests = product(base, dtype=['float32', 'bfloat16'], compile=[False, True])
    assert [(one.dtype, one.compile) for one in requests] == [
        *(('float32', False), ('float32', True)),
        *(('bfloat16', False), ('bfloat16', True)),
    ]
    assert {(one.model, one.rotate_180) for one in requests} == {('model', True)}
    assert product(base) == [base]


def test_labels_are_fit_for_a_folder() -> None:
    request = PolicyRequest(device='cuda:1', dtype='bfloat16', quantization='int8')
    assert request.label == 'cuda1-bfloat16-int8'
    assert PolicyRequest(device='server', dtype='server').label == 'server-none'
    assert dataclasses.replace(request, preprocessing='training').label.endswith('-training')


def test_a_resolved_request_says_auto_no_more() -> None:
    request = PolicyRequest(CHECKPOINT, device='cpu')
    resolved = resolve(request)
    assert resolved.device == 'cpu' and resolved.dtype in ('bfloat16', 'float32')
    assert resolve(resolved) == resolved
    twice = product(request, dtype=['bfloat16', 'float32', 'bfloat16'])
    assert [one.dtype for one in resolve_all(twice)] == ['bfloat16', 'float32']
    assert resolve(PolicyRequest('scripted')).dtype == 'float64'


@pytest.mark.parametrize(
    ('request_', 'error'),
    [
        (PolicyRequest(CHECKPOINT, device='abacus'), PlacementError),
        (PolicyRequest(CHECKPOINT, device='cpu', dtype='decimal'), PlacementError),
        (PolicyRequest(CHECKPOINT, device='cpu', quantization='int3'), PlacementError),
        (PolicyRequest(CHECKPOINT, device='cpu', preprocessing='none'), PreprocessingError),
        (PolicyRequest(CHECKPOINT, device='cpu', preprocessing='training'), VlaError),
        (PolicyRequest('scripted', device='cpu'), PolicyError),
        (PolicyRequest('scripted', rotate_180=True), PolicyError),
    ],
)
def test_what_is_not_available_is_not_resolved(
    request_: PolicyRequest, error: type[Exception]
) -> None:
    with pytest.raises(error):
        resolve(request_)


def test_images_are_cropped_as_the_contract_of_the_data_set_says() -> None:
    assert not center_crop(PolicyRequest(unnorm_key='libero_spatial'))
    training = PolicyRequest(preprocessing='training', unnorm_key='libero_spatial')
    assert center_crop(training)
    assert not center_crop(dataclasses.replace(training, unnorm_key='bridge_orig'))


def test_a_checkpoint_is_inspected_without_its_weights() -> None:
    inspection = inspect(PolicyRequest(CHECKPOINT))
    assert inspection is not None
    assert inspection.folder == Path(CHECKPOINT)
    assert inspection.check().startswith(f'{CHECKPOINT}: ')
    policy = load_policy(PolicyRequest(CHECKPOINT, device='cpu'))
    assert isinstance(policy, OpenVLAPolicy)
    for key in inspection.unnorm_keys:
        assert inspection.spec(key) == policy.spec(key) == policy.session(key).spec
        assert inspection.key(key) == key
    for ask in (inspection.key, inspection.spec):
        with pytest.raises(UnnormKeyError):
            ask('kuka')
    resolved = resolve(PolicyRequest(CHECKPOINT, device='cpu', dtype='float32'))
    smaller = dataclasses.replace(resolved, quantization='int8')
    assert inspection.needed_bytes(resolved) > inspection.needed_bytes(smaller) > 1e9


def test_a_script_is_inspected() -> None:
    script = PolicyRequest('scripted:chunk=4,cameras=2', device='cpu')
    inspection = inspect(script)
    assert inspection is not None
    assert inspection.folder is None and not inspection.unnorm_keys
    assert inspection.check() == 'scripted:chunk=4,cameras=2: a policy without a checkpoint'
    policy = load_policy(script, max_batch_size=3)
    assert isinstance(policy, ScriptedPolicy) and policy.max_batch_size == 3
    assert inspection.spec('any') == policy.spec() and inspection.key('any') == 'any'
    assert inspection.needed_bytes(script) is None
    with pytest.raises(PolicyError, match='explode'):
        inspect(PolicyRequest('scripted:explode'))


def test_what_is_not_downloaded_can_not_be_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('vla_ros.openvla.kind.downloaded_model', lambda *_: None)
    assert inspect(PolicyRequest('openvla/openvla-7b')) is None


def test_recipes_say_what_else_the_answers_depend_on() -> None:
    assert recipe(PolicyRequest('scripted')) == {}
    training = PolicyRequest(CHECKPOINT, preprocessing='training', unnorm_key='libero_spatial')
    written = recipe(training)
    assert (written['preprocessing'], written['center_crop']) == ('training', True)
    assert written['threads'] >= 1
