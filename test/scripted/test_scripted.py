# SPDX-License-Identifier: Apache-2.0
"""The scripted policy: its sound actions, each fault, each way to say when, and bad scripts."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from support.fakes import wait_until
from support.places import ROOT
from vla_ros.clock import Clock, ManualClock, SystemClock
from vla_ros.scheduling import InferenceWorker, Outcome, Phase, Result, WorkerLimits
from vla_ros.scripted import ScriptedPolicy, is_scripted
from vla_ros.types import (
    InferenceCancelled,
    InstructionError,
    Invalid,
    InvalidReason,
    Observation,
    Policy,
    PolicyError,
    Prediction,
    Progress,
    SelfCheckError,
    all_predicted,
    invalid_reason,
)

IMAGE = np.zeros((4, 6, 3), dtype=np.uint8)
HEARD_S = 0.05  # how soon a cancel is heard


def no_progress(progress: Progress) -> None:
    pass


def policy_of(script: str, clock: Clock = SystemClock()) -> ScriptedPolicy:
    return ScriptedPolicy.from_script(f'scripted:{script}', no_progress, clock=clock)


def predict(policy: Policy, cancel: threading.Event | None = None) -> Prediction:
    (prediction,) = answers(policy, 'go', cancel=cancel)
    assert isinstance(prediction, Prediction)
    return prediction


def answers(
    policy: Policy, *instructions: str, cancel: threading.Event | None = None
) -> list[Prediction | PolicyError]:
    """What it says to each instruction, in one call."""
    batch = [(policy.session(), Observation.of_one(IMAGE, one, 0)) for one in instructions]
    return policy.predict(batch, cancel)


def faulty_calls(script: str, calls: int) -> list[int]:
    """Which of the calls raise, counted from 1."""
    policy = policy_of(script)
    faulty = []
    for call in range(1, calls + 1):
        try:
            predict(policy)
        except RuntimeError:
            faulty.append(call)
    return faulty


def seconds_of(act: Callable[[], object]) -> float:
    started_s = time.monotonic()
    act()
    return time.monotonic() - started_s


def heard_after_s(act: Callable[[threading.Event], object], set_after_s: float = 0.15) -> float:
    """How long after ``cancel`` was set the act raised InferenceCancelled."""
    cancel = threading.Event()
    set_at: list[float] = []

    def set_it() -> None:
        set_at.append(time.monotonic())
        cancel.set()

    timer = threading.Timer(set_after_s, set_it)
    timer.start()
    with pytest.raises(InferenceCancelled):
        act(cancel)
    heard_at = time.monotonic()
    timer.join()
    return heard_at - set_at[0]


def exit_of(script: str) -> int:
    """The exit code of a process that loads, warms up and calls twice; 42 if it gets there."""
    statement = (
        'import sys, numpy as np\n'
        'from vla_ros.scripted import ScriptedPolicy\n'
        'from vla_ros.types import Observation\n'
        'observation = Observation.of_one(np.zeros((4, 6, 3), np.uint8), "go", 0)\n'
        f'policy = ScriptedPolicy.from_script({script!r}, lambda progress: None)\n'
        'policy.warmup()\n'
        'for _ in range(2): policy.predict([(policy.session(), observation)])\n'
        'sys.exit(42)'
    )
    return subprocess.run([sys.executable, '-c', statement], cwd=ROOT, timeout=60).returncode


# -- sound actions -----------------------------------------------------------------------------


@pytest.mark.parametrize('model', ['scripted', 'scripted:', 'scripted:nan', 'scripted:what'])
def test_it_is_scripted(model: str) -> None:
    assert is_scripted(model)


@pytest.mark.parametrize(
    'model', ['', 'openvla/openvla-7b', './scripted', 'scripted/one', 'Scripted']
)
def test_it_is_not_scripted(model: str) -> None:
    assert not is_scripted(model)


def test_it_is_a_policy() -> None:
    policy: Policy = policy_of('')
    assert policy.info.model == 'scripted:'
    assert (policy.info.device, policy.info.dtype) == ('cpu', 'float64')
    assert policy.spec() == policy.spec('bridge_orig')
    assert policy.spec().action_shape == (1, 7)
    policy.close()


@pytest.mark.parametrize('model', ['scripted', 'scripted:'])
def test_an_empty_script_acts_soundly(model: str) -> None:
    policy = ScriptedPolicy.from_script(model, no_progress)
    predictions = [predict(policy) for _ in range(120)]
    for prediction in predictions:
        assert prediction.invalid is None
        assert prediction.action.shape == prediction.normalized_actions[0].shape == (7,)
        assert prediction.action.dtype == prediction.normalized_actions[0].dtype == np.float64
        assert np.abs(prediction.normalized_actions[0]).max() <= 1
        np.testing.assert_array_equal(
            prediction.action[:-1], 0.01 * prediction.normalized_actions[0][:-1]
        )
        np.testing.assert_array_equal(prediction.tokens.probabilities, np.ones(7, np.float32))
        assert prediction.tokens.probabilities.dtype == np.float32
        assert prediction.unnorm_key == 'scripted'
        assert prediction.model_images['image'] is IMAGE
    assert {prediction.action[-1] for prediction in predictions} == {0.0, 1.0}
    moves = np.array([prediction.normalized_actions[0][:-1] for prediction in predictions])
    steps = np.abs(np.diff(moves, axis=0))
    assert 0 < steps.max() < 0.15  # smooth
    assert len({tuple(column) for column in moves.T}) == 6  # each value has its own phase


def test_the_token_ids_stand_for_the_values() -> None:
    from vla_ros.openvla.action_tokenizer import ActionTokenizer

    tokenizer = ActionTokenizer()
    policy = policy_of('')
    for _ in range(60):
        prediction = predict(policy)
        assert prediction.tokens.ids.dtype == np.int64
        assert tokenizer.is_action(prediction.tokens.ids).all()
        decoded = tokenizer.decode(prediction.tokens.ids)
        assert np.abs(decoded - prediction.normalized_actions[0]).max() <= 1 / 255 + 1e-9


def test_the_unnorm_key_is_handed_back() -> None:
    policy = policy_of('')
    observation = Observation.of_one(IMAGE, 'go', 0)
    batch = [(policy.session(key), observation) for key in ('bridge_orig', '')]
    keys = [prediction.unnorm_key for prediction in all_predicted(policy.predict(batch))]
    assert keys == ['bridge_orig', 'scripted']


@pytest.mark.parametrize('dim', [1, 2, 14])
def test_another_action_dim(dim: int) -> None:
    policy = policy_of(f'action_dim={dim}')
    assert policy.spec().action_dim == dim
    assert predict(policy).action.shape == (dim,)


def test_a_chunk_begins_as_the_next_chunks_do() -> None:
    one, eight = policy_of(''), policy_of('chunk=8')
    assert eight.spec().action_shape == (8, 7)
    singles = [predict(one) for _ in range(12)]
    for call in range(5):
        chunk = predict(eight)
        assert invalid_reason(chunk, eight.spec()) is None
        following = singles[call : call + 8]
        np.testing.assert_array_equal(chunk.actions, [each.action for each in following])
        ids = np.concatenate([each.tokens.ids for each in following])
        np.testing.assert_array_equal(chunk.tokens.ids, ids)
        assert chunk.tokens.probabilities.shape == ids.shape


def test_without_tokens() -> None:
    policy = policy_of('tokens=0')
    assert not policy.spec().emits_tokens
    prediction = predict(policy)
    assert prediction.tokens is None
    np.testing.assert_array_equal(prediction.actions, predict(policy_of('')).actions)


def test_the_spec_says_what_the_options_do() -> None:
    spec = policy_of('cameras=2,state=8,chunk=4,period=0.2,action_dim=6').spec()
    assert spec.cameras == ('camera_1', 'camera_2')
    assert (spec.state_dim, spec.action_shape, spec.period_s) == (8, (4, 6), 0.2)
    assert spec.names == tuple(f'value_{column}' for column in range(6))
    plain = policy_of('').spec()
    assert (plain.cameras, plain.state_dim, plain.period_s) == (('image',), 0, None)
    assert plain.emits_tokens and plain.deterministic


@pytest.mark.parametrize(
    ('cameras', 'state', 'lacks'),
    [
        (('camera_1',), 3, "'camera_2'"),
        ((), 3, "'camera_1'"),
        (('camera_1', 'camera_2'), 2, 'the state has 2 values; 3 are needed'),
        (('camera_1', 'camera_2'), None, 'the state has 0 values; 3 are needed'),
        (('camera_1', 'camera_2', 'camera_3'), 3, ''),
    ],
)
def test_it_says_what_an_observation_lacks(
    cameras: tuple[str, ...], state: int | None, lacks: str
) -> None:
    policy = policy_of('cameras=2,state=3')
    values = None if state is None else np.zeros(state)
    images, stamps_ns = dict.fromkeys(cameras, IMAGE), dict.fromkeys(cameras, 0)
    [answer] = policy.predict([(policy.session(), Observation(images, 'go', stamps_ns, values))])
    if lacks:
        assert isinstance(answer, PolicyError) and lacks in str(answer)
    else:
        assert isinstance(answer, Prediction)
        assert list(answer.model_images) == list(cameras)


@pytest.mark.parametrize(
    ('fault', 'kind'),
    [
        ('nan', Invalid.NOT_FINITE),
        ('inf', Invalid.NOT_FINITE),
        ('dim=3', Invalid.SHAPE),
        ('row=2', Invalid.SHAPE),
        ('row=0', Invalid.SHAPE),
        ('row=5', Invalid.SHAPE),
        ('unbounded', Invalid.OUT_OF_BOUNDS),
        ('invalid', Invalid.BY_POLICY),
    ],
)
def test_faults_of_a_chunk_are_found(fault: str, kind: Invalid) -> None:
    policy = policy_of(f'chunk=4,{fault}@2')
    sound, faulty, again = (predict(policy) for _ in range(3))
    assert invalid_reason(sound, policy.spec()) is invalid_reason(again, policy.spec()) is None
    reason = invalid_reason(faulty, policy.spec())
    assert reason is not None and reason.kind is kind
    if kind in (Invalid.NOT_FINITE, Invalid.OUT_OF_BOUNDS):
        assert reason.index == 0
        assert np.abs(faulty.normalized_actions[1:]).max() <= 1


@pytest.mark.parametrize('instruction', ['', '  ', 'a</s>b', 'a\nb', 'x' * 501])
def test_an_unusable_instruction_is_refused(instruction: str) -> None:
    policy = policy_of('')
    with pytest.raises(InstructionError):
        policy.check_instruction(instruction)
    sound, refused = answers(policy, 'go', instruction)
    assert isinstance(sound, Prediction) and isinstance(refused, InstructionError)


def test_warmup_takes_no_time_and_tells_how_little() -> None:
    reports: list[Progress] = []
    times = policy_of('').warmup(reports.append)
    assert 0 < times.first_inference_s + times.steady_inference_s <= times.total_s < 1
    assert reports
    assert policy_of('').warmup().total_s > 0


def test_warmup_does_not_count_as_a_call() -> None:
    policy = policy_of('raise@1')
    policy.warmup()
    with pytest.raises(RuntimeError):
        predict(policy)


# -- determinism -------------------------------------------------------------------------------


def told(script: str, calls: int = 80) -> list[object]:
    """All that a policy says, in a form that can be compared."""
    policy = policy_of(script)
    answers: list[object] = []
    for _ in range(calls):
        try:
            prediction = predict(policy)
        except (RuntimeError, MemoryError) as error:
            answers.append(str(error))
        else:
            answers.append(comparable(prediction))
    return answers


def comparable(value: object) -> object:
    """Return the bytes of arrays and the fields of dataclasses, at any depth."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if dataclasses.is_dataclass(value):
        return [comparable(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, dict):
        return {name: comparable(one) for name, one in value.items()}
    return value


@pytest.mark.parametrize(
    'script', ['', 'nan@3-5,dim=2@9', 'raise@20%,oom@10%,nan@30%,invalid@5%,seed=3']
)
def test_two_policies_with_one_script_are_equal(script: str) -> None:
    assert told(script) == told(script)


def test_the_seed_counts() -> None:
    assert told('raise@30%') == told('raise@30%,seed=0') != told('raise@30%,seed=1')


def test_sound_actions_depend_on_the_call_number_alone() -> None:
    plain, faulty = policy_of(''), policy_of('raise@1-20,seed=5')
    for call in range(1, 31):
        expected = predict(plain)
        if call <= 20:
            with pytest.raises(RuntimeError):
                predict(faulty)
        else:
            np.testing.assert_array_equal(predict(faulty).action, expected.action)


def test_what_is_not_at_random_does_not_change_what_is() -> None:
    assert faulty_calls('raise@20%', 60) == faulty_calls('nan,slow=0,invalid@3-,raise@20%', 60)


# -- when --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('when', 'calls'),
    [
        ('', [1, 2, 3, 4, 5, 6]),
        ('@1', [1]),
        ('@3', [3]),
        ('@2-4', [2, 3, 4]),
        ('@4-4', [4]),
        ('@5-', [5, 6]),
        ('@7', []),
        ('@0%', []),
        ('@100%', [1, 2, 3, 4, 5, 6]),
    ],
)
def test_when(when: str, calls: list[int]) -> None:
    assert faulty_calls(f'raise{when}', 6) == calls


@pytest.mark.parametrize(('percent', 'low', 'high'), [('25', 200, 300), ('0.5', 1, 15)])
def test_when_at_random(percent: str, low: int, high: int) -> None:
    assert low <= len(faulty_calls(f'raise@{percent}%', 1000)) <= high


def test_a_refused_call_counts_and_draws() -> None:
    policy = policy_of('raise@3')
    [refused] = answers(policy, '')
    assert isinstance(refused, InstructionError)
    predict(policy)
    with pytest.raises(RuntimeError):
        predict(policy)


def test_a_fault_may_come_several_times() -> None:
    assert faulty_calls('raise@2,raise@4-5', 6) == [2, 4, 5]


# -- faults at calls ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('fault', 'error', 'text'),
    [
        ('raise', RuntimeError, 'raise@2 at call 2'),
        ('oom', MemoryError, 'out of memory'),
        ('refuse', InstructionError, 'instruction'),
    ],
)
def test_faults_that_raise(fault: str, error: type[Exception], text: str) -> None:
    policy = policy_of(f'{fault}@2')
    predict(policy)
    with pytest.raises(error, match=text):
        predict(policy)
    assert predict(policy).invalid is None


@pytest.mark.parametrize(('fault', 'is_it'), [('nan', np.isnan), ('inf', np.isposinf)])
def test_values_that_are_not_finite(fault: str, is_it: Callable[..., np.ndarray]) -> None:
    prediction = predict(policy_of(fault))
    assert prediction.invalid is None  # the robot's stack has to see for itself
    for values in (prediction.action, prediction.normalized_actions[0]):
        assert is_it(values).tolist() == [True] + [False] * 6
    assert (prediction.tokens.ids >= 31744).all()


@pytest.mark.parametrize('dim', [0, 1, 6, 8])
def test_an_action_of_another_dimension(dim: int) -> None:
    policy = policy_of(f'dim={dim}')
    prediction = predict(policy)
    assert prediction.action.shape == prediction.normalized_actions[0].shape == (dim,)
    assert prediction.tokens.ids.shape == prediction.tokens.probabilities.shape == (dim,)
    assert policy.spec().action_dim == 7


@pytest.mark.parametrize('dim', [1, 7])
def test_unbounded(dim: int) -> None:
    policy = policy_of(f'unbounded,action_dim={dim}')
    for _ in range(60):
        prediction = predict(policy)
        assert prediction.invalid is None
        assert np.abs(prediction.normalized_actions[0]).min() > 1
        np.testing.assert_array_equal(
            prediction.action[:-1], 0.01 * prediction.normalized_actions[0][:-1]
        )
        assert ((prediction.tokens.ids >= 31744) & (prediction.tokens.ids < 32000)).all()


def test_invalid() -> None:
    prediction = predict(policy_of('invalid'))
    assert prediction.invalid == InvalidReason(Invalid.BY_POLICY)


def test_changed_lasts() -> None:
    policy = policy_of('changed@2')
    policy.check_files()
    predict(policy)
    policy.check_files()
    for _ in range(2):
        assert predict(policy).invalid is None  # nobody but check_files can tell
        with pytest.raises(PolicyError, match=r'changed@2 at call 2'):
            policy.check_files()


def test_several_faults_in_one_call() -> None:
    prediction = predict(policy_of('invalid,nan,dim=3'))
    assert prediction.invalid is not None
    assert np.isnan(prediction.action).tolist() == [True, False, False]
    with pytest.raises(RuntimeError):
        predict(policy_of('raise,oom'))
    with pytest.raises(MemoryError):
        predict(policy_of('oom,raise'))


def test_slow_comes_first() -> None:
    clock = ManualClock()
    policy = policy_of('raise,slow=0.1', clock)
    with pytest.raises(RuntimeError):
        predict(policy)
    assert clock.monotonic_s() == pytest.approx(0.1)


# -- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(('script', 'seconds'), [('slow=30', 30.0), ('slow=9.5,slow=9.5@1', 19.0)])
def test_slow_takes_so_much_longer(script: str, seconds: float) -> None:
    clock = ManualClock()
    predict(policy_of(script, clock))
    assert clock.monotonic_s() == pytest.approx(seconds)


def test_the_warm_up_is_timed_by_the_clock() -> None:
    policy = policy_of('slow=60@warmup', ManualClock())
    assert policy.warmup().total_s == pytest.approx(60.0)


@pytest.mark.parametrize('fault', ['slow=30', 'stuck'])
def test_slow_and_stuck_hear_a_cancel(fault: str) -> None:
    policy = policy_of(fault)
    assert heard_after_s(lambda cancel: predict(policy, cancel)) < HEARD_S


@pytest.mark.parametrize('fault', ['slow=30', 'stuck'])
def test_slow_and_stuck_hear_a_cancel_at_warmup(fault: str) -> None:
    policy = policy_of(f'{fault}@warmup')
    assert heard_after_s(lambda cancel: policy.warmup(None, cancel)) < HEARD_S


def test_a_call_that_was_cancelled_before_it_began() -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(InferenceCancelled):
        predict(policy_of(''), cancel)


def test_hung_hears_no_cancel() -> None:
    policy = policy_of('hung=0.3')
    cancel = threading.Event()
    threading.Timer(0.05, cancel.set).start()
    assert seconds_of(lambda: predict(policy, cancel)) >= 0.3
    assert cancel.is_set()


def test_hung_hears_nothing_while_loading_and_warming_up() -> None:
    reports: list[float] = []

    def report(progress: Progress) -> None:
        reports.append(time.monotonic())

    started_s = time.monotonic()
    policy = ScriptedPolicy.from_script('scripted:hung=0.3@load,hung=0.3@warmup', report)
    cancel = threading.Event()
    cancel.set()
    assert seconds_of(lambda: policy.warmup(report, cancel)) >= 0.3
    assert reports[0] - started_s >= 0.3


def test_lock_lets_no_other_thread_run() -> None:
    ran_s: list[float] = []
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.001):
            ran_s.append(time.monotonic())

    other = threading.Thread(target=run)
    other.start()
    wait_until(lambda: bool(ran_s))
    predict(policy_of('lock=0.3'))
    ended.set()
    other.join()
    ran_s.append(time.monotonic())
    assert np.diff(ran_s).max() >= 0.29


def test_hung_without_a_number_never_ends() -> None:
    policy = policy_of('hung')
    cancel = threading.Event()
    threading.Timer(0.05, cancel.set).start()
    thread = threading.Thread(target=lambda: predict(policy, cancel), daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()


# -- faults at load and at warm-up ---------------------------------------------------------------


@pytest.mark.parametrize(('fault', 'error'), [('raise', RuntimeError), ('oom', MemoryError)])
def test_load_and_warmup_that_raise(fault: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=f'{fault}@load'):
        policy_of(f'{fault}@load')
    policy = policy_of(f'{fault}@warmup')
    with pytest.raises(error, match=f'{fault}@warmup'):
        policy.warmup()
    assert predict(policy).invalid is None


def test_self_check() -> None:
    policy = policy_of('self_check@warmup')
    with pytest.raises(SelfCheckError, match='self-check'):
        policy.warmup()


def test_slow_tells_its_progress() -> None:
    reports: list[Progress] = []
    policy = ScriptedPolicy.from_script(
        'scripted:slow=0.5@load,slow=0.3@warmup', reports.append, clock=ManualClock()
    )
    assert [report.done for report in reports[:-1]] == sorted(
        report.done for report in reports[:-1]
    )
    assert 3 <= len(reports) <= 6  # about every 0.1 s
    assert {report.total for report in reports[:-1]} == {5}
    assert 'slow=0.5@load' in reports[0].text
    reports.clear()
    assert policy.warmup(reports.append).total_s >= 0.3
    assert 'slow=0.3@warmup' in reports[0].text


@pytest.mark.parametrize('phase', ['load', 'warmup'])
@pytest.mark.parametrize('fault', ['slow=30', 'stuck'])
def test_load_and_warmup_can_be_stopped_where_they_report(fault: str, phase: str) -> None:
    reports: list[Progress] = []

    def stop_at_the_third(progress: Progress) -> None:
        if fault in progress.text:
            reports.append(progress)
            if len(reports) == 3:
                raise InferenceCancelled

    def load_and_warm_up() -> None:
        with pytest.raises(InferenceCancelled):
            policy = ScriptedPolicy.from_script(f'scripted:{fault}@{phase}', stop_at_the_third)
            policy.warmup(stop_at_the_third)

    assert 0.19 <= seconds_of(load_and_warm_up) < 1
    assert all(0 <= report.done < report.total for report in reports)


# -- the end of the process ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('script', 'code'),
    [
        ('scripted', 42),
        ('scripted:exit=3@load', 3),
        ('scripted:exit=4@warmup', 4),
        ('scripted:exit=0@2', 0),
        ('scripted:exit=5@3', 42),
        ('scripted:exit@2', -signal.SIGABRT),
    ],
)
def test_exit(script: str, code: int) -> None:
    assert exit_of(script) == code


# -- bad scripts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('script', 'item', 'allowed'),
    [
        ('explode', 'explode', 'slow, stuck, hung'),
        ('nan,explode=3@2', 'explode=3@2', 'unbounded'),
        ('NaN', 'NaN', 'nan'),
        ('sed=3', 'sed=3', 'seed, action_dim'),
        (',', '', 'slow'),
        ('nan,', '', 'slow'),
        ('nan, inf', ' inf', 'inf'),
        ('nan;inf', 'nan;inf', 'inf'),
        ('=3', '=3', 'slow'),
        ('@3', '@3', 'slow'),
        ('nan@load', 'nan@load', 'slow, stuck, hung, lock, exit, raise, oom'),
        ('changed@load', 'changed@load', 'at calls also'),
        ('refuse@warmup', 'refuse@warmup', 'self_check'),
        ('dim=3@warmup', 'dim=3@warmup', 'at calls also'),
        ('self_check', 'self_check', 'at warmup also self_check'),
        ('self_check@load', 'self_check@load', 'at warmup also self_check'),
        ('self_check@3', 'self_check@3', 'at warmup also self_check'),
        ('slow', 'slow', 'from 0 to 86400'),
        ('slow=', 'slow=', 'from 0 to 86400'),
        ('slow=-1', 'slow=-1', 'from 0 to 86400'),
        ('slow=1e3', 'slow=1e3', 'from 0 to 86400'),
        ('slow=nan', 'slow=nan', 'from 0 to 86400'),
        ('slow=inf', 'slow=inf', 'from 0 to 86400'),
        ('slow=1_0', 'slow=1_0', 'from 0 to 86400'),
        ('slow=0.3s', 'slow=0.3s', 'from 0 to 86400'),
        ('slow=.', 'slow=.', 'from 0 to 86400'),
        ('slow=1=2', 'slow=1=2', 'from 0 to 86400'),
        ('slow=86401', 'slow=86401', 'from 0 to 86400'),
        ('slow=' + '9' * 400, '999', 'from 0 to 86400'),
        ('slow=\u0663', '\u0663', 'from 0 to 86400'),
        ('hung=', 'hung=', 'from 0 to 86400'),
        ('hung=x', 'hung=x', 'from 0 to 86400'),
        ('exit=256', 'exit=256', 'whole number from 0 to 255'),
        ('exit=1.5', 'exit=1.5', 'whole number from 0 to 255'),
        ('dim', 'dim', 'whole number from 0 to 1000'),
        ('dim=2.0', 'dim=2.0', 'whole number from 0 to 1000'),
        ('dim=7', 'dim=7', 'action_dim'),
        ('action_dim=3,dim=3@4', 'dim=3@4', 'action_dim'),
        ('nan=3', 'nan=3', 'no number'),
        ('stuck=3', 'stuck=3', 'no number'),
        ('raise=', 'raise=', 'no number'),
        ('seed', 'seed', 'whole number from 0 to 4294967295'),
        ('seed=-1', 'seed=-1', 'whole number from 0 to 4294967295'),
        ('seed=1@3', 'seed=1@3', 'whole number from 0 to 4294967295'),
        ('seed@3', 'seed@3', 'options are seed'),
        ('action_dim=0', 'action_dim=0', 'whole number from 1 to 1000'),
        ('chunk=0', 'chunk=0', 'whole number from 1 to 1000'),
        ('cameras=0', 'cameras=0', 'whole number from 1 to 16'),
        ('cameras=17', 'cameras=17', 'whole number from 1 to 16'),
        ('state=-1', 'state=-1', 'whole number from 0 to 1000'),
        ('period=0', 'period=0', 'number from 0.001 to 3600'),
        ('period', 'period', 'number from 0.001 to 3600'),
        ('tokens=2', 'tokens=2', 'whole number from 0 to 1'),
        ('chunk=2,chunk=3', 'chunk=3', 'once'),
        ('chunk=2@3', 'chunk=2@3', 'whole number from 1 to 1000'),
        ('row', 'row', 'whole number from 0 to 1000'),
        ('row=1', 'row=1', 'chunk'),
        ('chunk=3,row=3@4', 'row=3@4', 'chunk'),
        ('row=3@load', 'row=3@load', 'at calls also'),
        ('seed=1,seed=1', 'seed=1', 'once'),
        ('nan@', 'nan@', 'load, warmup, '),
        ('nan@0', 'nan@0', 'from 1'),
        ('nan@-3', 'nan@-3', 'from 1'),
        ('nan@5-3', 'nan@5-3', 'N-M'),
        ('nan@1-2-3', 'nan@1-2-3', 'N-M'),
        ('nan@two', 'nan@two', 'N-M'),
        ('nan@1.5', 'nan@1.5', 'N-M'),
        ('nan@3@4', 'nan@3@4', 'N-M'),
        ('nan@101%', 'nan@101%', 'P%'),
        ('nan@%', 'nan@%', 'P%'),
        ('nan@-5%', 'nan@-5%', 'P%'),
        ('nan@5%%', 'nan@5%%', 'P%'),
        ('nan@Load', 'nan@Load', 'load, warmup'),
        ('nan@3\n', 'nan@3', 'N-M'),
    ],
)
def test_a_bad_script(script: str, item: str, allowed: str) -> None:
    with pytest.raises(PolicyError) as raised:
        policy_of(script)
    text = str(raised.value)
    assert item in text
    assert allowed in text
    assert 'for example scripted:' in text


def test_the_example_of_the_errors_is_a_good_script() -> None:
    with pytest.raises(PolicyError) as raised:
        policy_of('explode')
    example = str(raised.value).split('for example ')[1]
    predict(ScriptedPolicy.from_script(example, no_progress))


# -- where it runs -------------------------------------------------------------------------------


def test_it_imports_neither_torch_nor_ros() -> None:
    statement = 'import sys, vla_ros.scripted; print(*sys.modules)'
    command = [sys.executable, '-c', statement]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loaded = set(printed.split())
    assert not loaded & {'torch', 'transformers', 'timm', 'PIL', 'rclpy'}
    ours = {name for name in loaded if name.startswith('vla_ros.')}
    assert ours == {
        'vla_ros.clock',
        'vla_ros.errors',
        'vla_ros.reasons',
        'vla_ros.scripted',
        'vla_ros.scripted.policy',
        'vla_ros.scripted.script',
        'vla_ros.text',
        'vla_ros.types',
    }


LIMITS = WorkerLimits(max_image_age_s=0.5, inference_timeout_s=1.0, hang_timeout_s=5.0)


def worker_of(script: str, clock: ManualClock) -> InferenceWorker:
    model = f'scripted:{script}'
    worker = InferenceWorker(
        lambda progress: ScriptedPolicy.from_script(model, progress), LIMITS, clock
    )
    worker.start()
    return worker


def next_result(worker: InferenceWorker) -> Result:
    results: list[Result] = []

    def come() -> bool:
        result = worker.next_result()
        if result is not None:
            results.append(result)
        return bool(results)

    wait_until(come)
    return results[0]


def test_in_the_worker() -> None:
    clock = ManualClock()
    worker = worker_of('raise@2,stuck@3', clock)
    wait_until(lambda: worker.status().phase is Phase.READY)
    outcomes = []
    for call in range(1, 5):
        worker.submit(Observation.of_one(IMAGE, 'go', clock.now_ns()))
        if call == 3:
            wait_until(lambda: worker.statistics().taken == 3)
            worker.reset()
        outcomes.append(next_result(worker).outcome)
    assert outcomes == [Outcome.PREDICTED, Outcome.FAILED, Outcome.CANCELLED, Outcome.PREDICTED]
    assert worker.close(10)


@pytest.mark.parametrize('when', ['load', 'warmup'])
@pytest.mark.parametrize('fault', ['stuck', 'slow=30'])
def test_the_worker_can_stop_load_and_warmup(fault: str, when: str) -> None:
    worker = worker_of(f'{fault}@{when}', ManualClock())
    phase = {'load': Phase.LOADING, 'warmup': Phase.WARMING_UP}[when]
    wait_until(lambda: worker.status().phase is phase and worker.status().progress is not None)
    assert worker.close(1.0)
    assert worker.status().phase is Phase.CLOSED


@pytest.mark.parametrize(
    ('script', 'text'),
    [('explode', "'explode'"), ('oom@load', 'memory'), ('self_check@warmup', 'self-check')],
)
def test_the_worker_tells_why_it_failed(script: str, text: str) -> None:
    worker = worker_of(script, ManualClock())
    wait_until(lambda: worker.status().phase is Phase.FAILED)
    failure = worker.status().failure
    assert failure is not None and text in failure.message
    assert worker.close(10)
