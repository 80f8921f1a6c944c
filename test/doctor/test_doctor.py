# SPDX-License-Identifier: Apache-2.0
"""vla_doctor finds each planted fault, says what to do, and finds none in a sound set-up."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
import torch
from safetensors.torch import load_file, save_file

from support.doctor_setups import about, assert_sound, show
from support.graph import robot
from support.places import ROOT
from vla_ros.cli import doctor
from vla_ros.doctor import devices, memory
from vla_ros.doctor.checkpoint import check_checkpoint, check_unnorm_key
from vla_ros.doctor.contract import check_contract
from vla_ros.doctor.facts import Facts, Setup
from vla_ros.doctor.findings import Finding, Level, fail, ok, run_checks, warn
from vla_ros.doctor.measure import check_by_measuring
from vla_ros.doctor.parameters import check_parameters
from vla_ros.doctor.rate import check_rate, check_time_limits
from vla_ros.measure import memory as machine_memory
from vla_ros.motion.contract import load_contracts, shipped_entry
from vla_ros.parameters.definition import Parameters
from vla_ros.parameters.overrides import read_parameter_file
from vla_ros.policy_request import PolicyRequest

INDEX = 'model.safetensors.index.json'
SHARD = 'model-00001-of-00001.safetensors'
HEAD = 'language_model.lm_head.weight'
PROFILE = ROOT / 'config' / 'fastdds.xml'


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy, to damage; of a data set whose contract is known."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'checkpoint'))
    edit_json(folder / 'config.json', name_bridge)
    return folder


def name_bridge(config: dict[str, Any]) -> None:
    config['norm_stats'] = {'bridge_orig': config['norm_stats']['random']}


def placed(facts: Facts) -> Facts:
    """As after the checks of device and checkpoint."""
    list(devices.check_devices(facts))
    list(check_checkpoint(facts))
    list(check_unnorm_key(facts))
    return facts


# -- parameters --------------------------------------------------------------------------------


def test_requests_have_the_defaults_of_the_node() -> None:
    defaults = dataclasses.asdict(PolicyRequest())
    assert defaults == {name: getattr(Parameters(), name) for name in defaults}


def test_the_parameter_file_of_the_package_is_assert_sound() -> None:
    facts = Facts(Setup(parameters_file=ROOT / 'config' / 'vla.yaml'))
    assert_sound(check_parameters(facts))
    assert facts.parameters == Parameters()


def test_sound_parameters() -> None:
    facts = Facts(Setup('scripted', {'robots': '[a, b]', 'image_timeout_s': '1e1'}))
    assert list(check_parameters(facts)) == [ok('3 set, the others by default')]
    assert facts.parameters == Parameters(model='scripted', robots=('a', 'b'), image_timeout_s=10.0)


@pytest.mark.parametrize(
    ('assignments', 'expected'),
    [
        (
            {'inferense_timeout_s': '2.0'},
            fail('parameter inferense_timeout_s is unknown', 'did you mean inference_timeout_s?'),
        ),
        (
            {'max_image_age_s': '1'},
            fail(
                'parameter max_image_age_s has a value of the wrong type (it is 1)',
                'expected is float (write 2.0, not 2)',
            ),
        ),
        (
            {'max_image_age_s': '0.0'},
            fail('parameter max_image_age_s is 0', 'allowed: 0.001 to 3600'),
        ),
        (
            {'image_transport': 'theora'},
            fail("parameter image_transport is 'theora'", 'allowed: raw, compressed'),
        ),
        (
            {'inference_timeout_s': '3.0'},
            fail(
                'parameter inference_timeout_s is 3, above max_action_age_s, 1.5: an action '
                'that takes longer than that is never published',
                'raise max_action_age_s, or lower inference_timeout_s',
            ),
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_a_wrong_parameter(assignments: dict[str, str], expected: Finding) -> None:
    assert list(check_parameters(Facts(Setup('scripted', assignments)))) == [expected]


def test_parameters_are_checked_without_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('rclpy', 'rcl_interfaces', 'vla_ros.ros'):
        monkeypatch.setitem(sys.modules, name, None)
    (found,) = check_parameters(Facts(Setup('scripted', {'dtyp': 'auto'})))
    assert found == fail('parameter dtyp is unknown', 'did you mean dtype?')


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('/vla_node:\n  ros__parameters: {model: scripted}', 'sets nothing for /left/vla: it has'),
        ('/**:\n  model: scripted', 'sets nothing for /left/vla: it has no ros__parameters'),
        ('/**: [', 'is not YAML: '),
        ('/**: 2024-02-31', "is not YAML: line 1, column 6: '2024-02-31' is not a valid timestamp"),
        ('/**: ' + '[' * 2000, 'is not YAML: line 1, column '),
        ('/**: &a [*a]', 'is not YAML: line 1, column '),
        ('? 0x' + 'f' * 6000 + '\n: {}', 'is not YAML: line 1, column 3: '),
        ('"\\e[2J": {ros__parameters: {}}', 'sets nothing for /left/vla: it has /\\x1b[2J'),
        (None, 'does not exist'),
        ('named pipe', 'is a named pipe; expected a regular file'),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_a_parameter_file_that_says_nothing(
    tmp_path: Path, text: str | None, expected: str
) -> None:
    file = tmp_path / 'vla.yaml'
    if text == 'named pipe':
        os.mkfifo(file)
    elif text is not None:
        file.write_text(text)
    found = next(check_parameters(Facts(Setup(parameters_file=file, node='/left/vla'))))
    assert found.level is Level.FAIL
    assert f'{file} {expected}' in found.text
    assert found.advice


def test_a_parameter_file_is_read_as_ros_reads_it(tmp_path: Path) -> None:
    """Names with wildcards, nested ones, those of other nodes; the last wins."""
    file = tmp_path / 'vla.yaml'
    file.write_text(
        '/left/vla:\n  ros__parameters: {model: own, a: {depth: 1}, b: 1e3, c: "2", d: on}\n'
        '/**:\n  ros__parameters: {model: all, dtype: all, robots: [a, b], e: 1.0, f: 0x10}\n'
        'left:\n  "*":\n    ros__parameters: {dtype: left}\n'
        '/**/vla:\n  ros__parameters: {revision: deep}\n'
        '/*:\n  ros__parameters: {device: shallow}\n'
        '/right/vla:\n  ros__parameters: {device: right}\n'
    )
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '--params-file', str(file)])
    node = rclpy.node.Node('vla', namespace='/left', context=context)
    by_ros = {name: one.value for name, one in node._parameter_overrides.items()}
    node.destroy_node()
    rclpy.shutdown(context=context)
    assert read_parameter_file(file, '/left/vla') == by_ros
    assert by_ros['model'] == 'all' and by_ros['dtype'] == 'left' and 'device' not in by_ros


# -- checkpoint, unnorm_key, contract, memory --------------------------------------------------


def test_a_sound_checkpoint(checkpoint: Path) -> None:
    facts = about(checkpoint)
    assert_sound(check_checkpoint(facts))
    assert_sound(check_unnorm_key(facts))
    assert_sound(check_contract(facts))
    assert_sound(memory.check_memory(placed(facts)))
    assert facts.unnorm_key == 'bridge_orig'
    assert facts.contract is not None and facts.contract.rate_hz == 5.0


def truncate(folder: Path) -> None:
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[: len(data) // 2])


def drop_head(folder: Path) -> None:
    tensors = load_file(folder / SHARD)
    del tensors[HEAD]
    save_file(tensors, folder / SHARD)
    edit_json(folder / INDEX, lambda c: c['weight_map'].pop(HEAD))


def write_pointer(path: Path) -> None:
    path.write_text(
        'version https://git-lfs.github.com/spec/v1\noid sha256:' + '0' * 64 + '\nsize 1\n'
    )


DAMAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    'a shard that is truncated': (
        truncate,
        r'.*model-00001-of-00001.safetensors \(\d+ bytes\) is truncated or no safetensors file: .*',
        'download or copy it again',
    ),
    'a key that is missing': (
        drop_head,
        rf'.*checkpoint lacks 1 of \d+ tensors: {re.escape(HEAD)}',
        'download or copy the checkpoint again, or name another',
    ),
    'a git-LFS pointer for a shard': (
        lambda folder: write_pointer(folder / SHARD),
        r'.*model-00001-of-00001.safetensors is a git-LFS pointer, not the file itself',
        'run `git lfs pull` in that folder',
    ),
    'a git-LFS pointer for the tokenizer': (
        lambda folder: write_pointer(folder / 'tokenizer.json'),
        r'.*tokenizer.json is a git-LFS pointer, not the file itself',
        'run `git lfs pull` in that folder',
    ),
    'a file that is missing': (
        lambda folder: (folder / 'preprocessor_config.json').unlink(),
        r'.*preprocessor_config.json is missing, and an OpenVLA checkpoint has one',
        'download or copy it again',
    ),
}


@pytest.mark.parametrize('fault', DAMAGE)
def test_a_damaged_checkpoint(checkpoint: Path, fault: str) -> None:
    damage, text, advice = DAMAGE[fault]
    damage(checkpoint)
    facts = about(checkpoint)
    (found,) = check_checkpoint(facts)
    assert found.level is Level.FAIL
    assert re.fullmatch(text, found.text), found
    assert found.advice == advice
    assert_sound(check_unnorm_key(facts))  # what can still be said is said
    assert list(memory.check_memory(facts)) == []


def test_models_that_are_none() -> None:
    (found,) = check_checkpoint(about('/nowhere/openvla'))
    assert found == fail(
        "model '/nowhere/openvla' is not a folder on this machine, nor of the form owner/name of a "
        'hub id',
        'name one or the other',
    )
    (found,) = check_checkpoint(about('scripted:explode'))
    assert found.level is Level.FAIL and "'explode' is not allowed" in found.text
    (found,) = check_checkpoint(about())
    assert found == warn('no model is named; no policy is checked', 'vla_doctor MODEL')


def test_a_wrong_unnorm_key(checkpoint: Path) -> None:
    facts = about(checkpoint, unnorm_key='brige_orig')
    list(check_checkpoint(facts))
    assert list(check_unnorm_key(facts)) == [
        fail(
            "unnorm_key 'brige_orig' is not in this checkpoint",
            'did you mean bridge_orig? set unnorm_key to one of: bridge_orig',
        )
    ]
    assert list(check_contract(facts)) == []  # one fault, one finding


@pytest.mark.parametrize('key', ['2024', '007', '1e3', 'true', 'null', '0x1f', '2024-01-01'])
def test_an_unnorm_key_that_yaml_takes_for_something_else(key: str, tiny_checkpoint: Path) -> None:
    """The launch file gives it to the node as text, too."""
    facts = about(tiny_checkpoint, unnorm_key=key)
    assert facts.request.unnorm_key == facts.parameters.unnorm_key == key
    (found,) = check_parameters(Facts(Setup(str(tiny_checkpoint), {'unnorm_key': key})))
    assert found.level is Level.OK


def test_an_unnorm_key_of_digits(checkpoint: Path) -> None:
    edit_json(
        checkpoint / 'config.json',
        lambda config: config['norm_stats'].update({'2024': config['norm_stats']['bridge_orig']}),
    )
    facts = about(checkpoint, unnorm_key='2024')
    assert_sound(check_checkpoint(facts))
    assert_sound(check_unnorm_key(facts))
    assert facts.unnorm_key == '2024'


def test_no_unnorm_key_where_there_are_several(checkpoint: Path) -> None:
    def add(config: dict[str, Any]) -> None:
        config['norm_stats']['droid'] = config['norm_stats']['bridge_orig']

    edit_json(checkpoint / 'config.json', add)
    facts = about(checkpoint)
    list(check_checkpoint(facts))
    assert list(check_unnorm_key(facts)) == [
        fail(
            'unnorm_key is not set, and this checkpoint has statistics of several data sets',
            'set unnorm_key to one of: bridge_orig, droid',
        )
    ]


def test_a_data_set_without_a_contract(tiny_checkpoint: Path, tmp_path: Path) -> None:
    facts = placed(about(tiny_checkpoint))
    (found,) = check_contract(facts)
    assert found.level is Level.WARN
    assert found.text == (
        'there is no action contract for random: its actions are published, but cause no motion'
    )
    assert found.advice.startswith('write one (contracts:=FILE)')
    assert 'bridge_orig' in found.advice
    moving = dataclasses.replace(facts.parameters, motion='twist')
    training = dataclasses.replace(facts.request, preprocessing='training')
    for needs_it in ({'parameters': moving}, {'request': training}):
        needing = dataclasses.replace(facts, **needs_it)
        (found,) = check_contract(needing)
        assert found.level is Level.FAIL


def test_preprocessing_as_in_training_needs_the_key_by_name() -> None:
    facts = Facts(
        Setup(),
        request=PolicyRequest('model', preprocessing='training'),
        unnorm_key='bridge_orig',
    )
    found = [one for one in check_contract(facts) if one.level is Level.FAIL]
    assert [one.advice for one in found] == ['unnorm_key:=bridge_orig']
    facts.request = dataclasses.replace(facts.request, unnorm_key='bridge_orig')
    assert [one.level for one in check_contract(facts)] == [Level.OK]


def test_contracts_that_can_not_be_used(tmp_path: Path) -> None:
    facts = Facts(
        Setup(),
        request=PolicyRequest(contracts=str(tmp_path / 'none.yaml')),
        unnorm_key='bridge_orig',
    )
    (found,) = check_contract(facts)
    assert found.level is Level.FAIL
    assert found.text == f'contracts file {tmp_path / "none.yaml"} does not exist'
    assert found.advice == 'give the path of a YAML file of contracts'


def test_too_little_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = placed(about(checkpoint, device='cpu', dtype='bfloat16'))
    assert_sound(memory.check_memory(facts))
    monkeypatch.setattr(machine_memory, 'available_bytes', lambda device: 1_000_000_000)
    assert list(memory.check_memory(facts)) == [
        fail(
            'bfloat16 takes about 1.2 GB, loading included; 1.0 GB are free on cpu',
            'free memory (does a node already run?), or use a larger machine',
        )
    ]


def test_too_little_memory_for_all_but_int8(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the shapes of openvla-7b, of which nothing but config.json has to be there."""
    edit_json(checkpoint / 'config.json', lambda c: c.update(make_large(c)))
    facts = placed(about(checkpoint, device='cpu', dtype='bfloat16'))
    facts.is_whole = True
    monkeypatch.setattr(machine_memory, 'available_bytes', lambda device: 9_500_000_000)
    assert list(memory.check_memory(facts)) == [
        fail(
            'bfloat16 takes about 16.2 GB, loading included; 9.5 GB are free on cpu',
            'set quantization to int8 (9.0 GB), or end what uses the memory',
        )
    ]


def test_each_further_robot_takes_memory(checkpoint: Path) -> None:
    edit_json(checkpoint / 'config.json', lambda c: c.update(make_large(c)))
    found = []
    for parameters in ({}, {'robots': '[a, b, c]'}, {'recomputed_patches': '0.5'}):
        facts = placed(about(checkpoint, device='cpu', dtype='bfloat16', **parameters))
        facts.is_whole = True
        found += [
            ' '.join(one.text.split(',')[0].split()[2:]) for one in memory.check_memory(facts)
        ]
    assert found == ['about 16.2 GB', '3 robots takes about 16.7 GB', 'about 16.3 GB']


def make_large(config: dict[str, Any]) -> dict[str, Any]:
    return {
        'timm_model_ids': [
            'vit_large_patch14_reg4_dinov2.lvd142m',
            'vit_so400m_patch14_siglip_224',
        ],
        'text_config': {
            name: config['text_config'][name]
            for name in ('model_type', 'pad_token_id', 'vocab_size')
        },
    }


# -- rate and time limits ----------------------------------------------------------------------


def timed(inference_s: float | None, **parameters: float) -> Facts:
    return Facts(
        Setup(),
        request=PolicyRequest('scripted'),
        parameters=dataclasses.replace(Parameters(), **parameters),
        contract=load_contracts()['bridge_orig'],
        inference_s=inference_s,
        inference_source='measured, the median of 3',
    )


def test_a_policy_slower_than_its_data_set() -> None:
    assert list(check_rate(timed(1 / 1.2))) == [
        warn(
            '1.2 Hz: an action takes 0.833 s here (measured, the median of 3) on a policy trained '
            'at 5 Hz',
            'set quantization to int8, take a machine with a GPU, or accept a robot that is 4.2 '
            'times as slow: each action is meant for 0.2 s',
        )
    ]
    assert_sound(check_rate(timed(0.15)))
    quantized = timed(1 / 1.2)
    quantized.request = PolicyRequest('scripted', quantization='int8')
    (found,) = check_rate(quantized)
    assert found.advice.startswith('take a machine with a GPU, or accept')


def test_a_chunk_counts_as_its_actions() -> None:
    facts = timed(1.0)
    facts.rows = 8
    (found,) = check_rate(facts)
    assert found == ok(
        '8 Hz: a chunk of 8 actions takes 1 s here (measured, the median of 3); bridge_orig acted '
        'at 5 Hz'
    )


def test_two_robots_are_measured_together() -> None:
    facts = placed(about('scripted:slow=0.01', robots='[a, b]'))
    assert_sound(check_by_measuring(facts))
    assert facts.inference_s is not None and facts.inference_s >= 0.01
    assert facts.inference_source == 'measured, the median of 3 of 2 robots together'


def test_a_policy_is_measured_with_the_parts_that_it_needs() -> None:
    facts = placed(about('scripted:cameras=3,state=8,chunk=4,tokens=0', robots='[a, b]'))
    assert facts.rows == 4
    assert list(memory.check_memory(facts)) == []  # it needs hardly any
    assert_sound(check_by_measuring(facts))
    assert facts.inference_s is not None


def test_what_does_not_fit_is_not_measured() -> None:
    facts = placed(about('scripted'))
    facts.fits = False
    assert list(check_by_measuring(facts)) == [
        warn('not measured: the policy does not fit into memory', 'see the check memory')
    ]
    assert facts.inference_s is None


def test_a_rate_that_is_not_known() -> None:
    assert list(check_rate(timed(None))) == [
        warn(
            'the duration of an action is not known here',
            'measure it with --measure, or start the node and ask again',
        )
    ]


def test_an_inference_that_can_not_be_in_time() -> None:
    assert list(check_time_limits(timed(1.2))) == [
        fail(
            'an action takes 1.2 s, inference_timeout_s is 1: all would be late',
            'set inference_timeout_s to 2.4 or so',
        ),
        ok('from image to action it takes 1.2 s, max_action_age_s is 1.5'),
    ]
    facts = timed(1.2, inference_timeout_s=2.0, max_action_age_s=2.0)
    facts.image_age_s = 0.9
    assert list(check_time_limits(facts))[1] == fail(
        'from image to action it takes 2.1 s, max_action_age_s is 2: all would be late',
        'set max_action_age_s to 4.2 or so',
    )
    assert_sound(check_time_limits(timed(0.2)))


# -- the whole ---------------------------------------------------------------------------------


def test_a_check_that_crashes_leaves_the_others_alone() -> None:
    def crash(facts: Facts) -> Iterator[Finding]:
        yield ok('one')
        raise ZeroDivisionError('division\nby zero')

    told: list[Finding] = []
    found = run_checks(
        {'first': crash, 'second': lambda facts: [ok('two')]}, Facts(Setup()), told.append
    )
    assert found == told
    assert [str(one) for one in found] == [
        'OK    first: one',
        'FAIL  first: the check itself failed: ZeroDivisionError: division by zero -> fix the '
        'installation; if it is intact, report this as an error of vla_ros',
        'OK    second: two',
    ]


def test_a_package_that_is_missing_is_named() -> None:
    def crash(facts: Facts) -> list[Finding]:
        raise ModuleNotFoundError("No module named 'torch'", name='torch')

    (found,) = run_checks({'devices': crash}, Facts(Setup()), lambda _: None)
    assert found.text == f'torch is not installed in {sys.executable}'


def test_a_sound_set_up_from_end_to_end(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a data set so slow that a busy machine is fast enough."""
    threads = torch.get_num_threads()
    contract = {**shipped_entry('bridge_orig'), 'period_s': 10.0}
    contracts = tmp_path / 'contracts.yaml'
    contracts.write_text(json.dumps({'bridge_orig': contract, 'random': contract}))
    for variable in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
        monkeypatch.setenv(variable, str(PROFILE))
    with robot('/whole') as stack:
        show(stack, 'camera/color', 30.0)
        torch.set_num_threads(1)  # two would wait for each other, and the camera wants one as well
        exit_code = doctor.main(
            [
                *(f'contracts:={contracts}', '--image', 'camera/color', '--seconds', '0.8'),
                str(tiny_checkpoint),
                *(
                    'device:=cpu',
                    'unnorm_key:=random',
                    '--measure',
                    'preprocessing:=training',
                    'inference_timeout_s:=20.0',
                ),
                *('max_action_age_s:=20.0', '--json', '--ros-args', '-r', '__ns:=/whole'),
            ]
        )
    torch.set_num_threads(threads)
    report = json.loads(capsys.readouterr().out)
    assert exit_code == 0, [one for one in report['findings'] if one['level'] != 'OK']
    assert report['WARN'] == report['FAIL'] == 0, report
    assert report['OK'] == len(report['findings'])
    # A folder's policy has no server.
    assert {one['check'] for one in report['findings']} == {*doctor._CHECKS} - {'server'}


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([str(tmp_path), 'dtype:=int8', '--no-ros']) == 1
    lines = capsys.readouterr().out.splitlines()
    assert (
        "FAIL  devices: dtype 'int8' is unknown -> expected one of auto, float32, bfloat16, float16"
    ) in lines
    assert (
        f'FAIL  checkpoint: {tmp_path}/config.json is missing, and an OpenVLA checkpoint has one '
        '-> download or copy it again'
    ) in lines
    assert re.fullmatch(r'\d+ OK, \d+ WARN, 2 FAIL', lines[-1])


def test_the_command_in_a_process_of_its_own() -> None:
    command = [sys.executable, '-m', 'vla_ros.cli.doctor', 'one', 'two']
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.endswith('vla_doctor: error: one and two: one model is allowed\n')


@pytest.mark.parametrize(
    'arguments',
    [
        ['a', 'b'],
        ['--seconds', '0'],
        ['--seconds', 'x'],
        ['--ros-args', '-p', 'model:=a'],
        ['--ros-args', '-r', 'nonsense'],
        ['--unknown'],
    ],
)
def test_unusable_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        doctor.main(arguments)
    assert ended.value.code == 2
    assert 'vla_doctor: error: ' in capsys.readouterr().err
