# SPDX-License-Identifier: Apache-2.0
"""Measurement of inferences, in which the combinations take turns.

Other load of the machine then affects all combinations equally.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from vla_ros.bench.combinations import Combination, inspection_of
from vla_ros.bench.openvla import (
    ModelFacts,
    fit_together,
    forget_images,
    model_facts,
    offer_draft,
    wrong_draft,
)
from vla_ros.bench.plain import PlainPath
from vla_ros.bench.random_weights import load_random
from vla_ros.console import Say
from vla_ros.measure.energy import energy_meter
from vla_ros.measure.images import noise_images
from vla_ros.measure.memory import PeakMemory
from vla_ros.measure.observations import make_observations
from vla_ros.openvla.kind import OpenVLAInspection
from vla_ros.policies import load_policy
from vla_ros.policy_request import PolicyRequest
from vla_ros.types import (
    Cancel,
    InferenceCancelled,
    Policy,
    PolicyError,
    PolicySpec,
    Prediction,
    WarmupTimes,
    all_predicted,
    invalid_reason,
)

Infer = Callable[[], list[Prediction]]

# A card's counter moves ten times a second or so.
_MIN_ENERGY_S, _MIN_ENERGY_RUNS = 2.0, 3


@dataclass(frozen=True)
class Loading:
    """The time and memory to load and warm up a policy.

    :param first_s: duration of the warm-up's first inference; None if it did not end.
    :param is_warm: whether the warm-up ended, and was not cut short.
    :param graphs: what the policy says of its CUDA graphs; empty if it has none.
    :param peak_resident_bytes: the process's peak memory during this time, with mapped files.
    :param added_resident_bytes: the peak minus the memory before.
    :param added_device_bytes: peak minus the memory before on the device; None on the CPU.
    """

    load_s: float
    warmup_s: float
    first_s: float | None
    peak_resident_bytes: int
    added_resident_bytes: int
    added_device_bytes: int | None
    is_warm: bool = True
    graphs: str = ''


@dataclass(frozen=True)
class Energy:
    """The energy of a device while one combination ran without a pause.

    :param joules: of one batch.
    :param watts: on average.
    :param source: name of the counter.
    """

    joules: float
    watts: float
    source: str


@dataclass
class Measurement:
    """The measurement of one combination.

    :param model: None if only the predictions are known.
    :param loading: None if it uses the policy of an earlier combination.
    :param is_random: whether its weights were drawn on the device.
    :param latencies_s: duration of each repetition, which is one batch.
    :param timings: seconds for each stage, for each repetition.
    :param token_ids: token ids of each repetition's actions; empty without tokens.
    :param passes: passes after the prefill of each repetition; empty without tokens.
    :param energy: None if the device does not tell it.
    :param valid: number of valid predictions, over all repetitions.
    :param drafted: number of draft tokens that were verified, over all repetitions.
    :param accepted: number of these that were right.
    """

    combination: Combination
    spec: PolicySpec
    model: ModelFacts | None = None
    loading: Loading | None = None
    is_random: bool = False
    latencies_s: list[float] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)
    token_ids: list[list[list[int]]] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    energy: Energy | None = None
    valid: int = 0
    drafted: int = 0
    accepted: int = 0

    def keep(self, predictions: Sequence[Prediction]) -> None:
        """Add the predictions of one batch."""
        self.timings.append(dict(predictions[0].timings))
        self.valid += sum(invalid_reason(one, self.spec) is None for one in predictions)
        tokens = [one.tokens for one in predictions if one.tokens is not None]
        self.token_ids.append([one.ids.tolist() for one in tokens])
        self.passes += [one.passes for one in tokens[:1]]
        self.drafted += sum(one.drafted for one in tokens)
        self.accepted += sum(one.accepted for one in tokens)


@dataclass(frozen=True)
class Task:
    """The inputs of all inferences.

    :param repeats: steady repetitions of each combination.
    :param images: uint8 [H, W, 3] each, used in turn; empty: new noise each time.
    :param shape: of random weights, which are drawn on the device; empty: those of the model.
    :param cancel: ends the measurement when it is set; what was measured until then counts.
    :param cut_warmup: ends a warm-up when it is set; what follows is measured all the same.
    """

    instruction: str
    repeats: int
    images: Sequence[NDArray[np.uint8]] = ()
    shape: str = ''
    cancel: Cancel = field(default_factory=threading.Event)
    cut_warmup: Cancel = field(default_factory=threading.Event)


def measure(
    task: Task,
    combinations: Sequence[Combination],
    say: Say,
    look_closer: Callable[[Infer], None] | None = None,
) -> tuple[list[Measurement], bool]:
    """Measure all combinations; torch's number of threads is restored at the end.

    :param combinations: combinations of one model, as :func:`locate` returns them.
    :param look_closer: called with a function that runs one more inference of the first
        combination.
    :returns: one measurement for each combination, in order; and whether all took turns. If the
        policies do not fit into memory together, only combinations that share a policy take turns.
    :raises PolicyError: if a policy can't be loaded or can't predict.
    """
    threads = torch.get_num_threads()
    try:
        measurements, together = _prepare(task, combinations)
        keys = list(dict.fromkeys(combination.policy for combination in combinations))
        for group in [keys] if together else [[key] for key in keys]:
            members = [one for one in measurements if one.combination.policy in group]
            _measure_group(task, members, say, look_closer)
            look_closer = None
    finally:
        torch.set_num_threads(threads)
    return measurements, together


def _prepare(task: Task, combinations: Sequence[Combination]) -> tuple[list[Measurement], bool]:
    """Return measurements with what is known before a policy is loaded, and whether all fit."""
    request = combinations[0].policy
    inspection = inspection_of(request)
    spec = inspection.spec(request.unnorm_key or None)
    openvla = inspection if isinstance(inspection, OpenVLAInspection) else None
    if openvla is None or not openvla.config.decodes:
        for one in combinations:
            if one.draft != 'none':
                raise PolicyError(f'model {request.model!r} takes no drafts', 'leave --draft out')
    if openvla is None and any(one.is_plain for one in combinations):
        raise PolicyError(f'model {request.model!r} has no plain path', 'leave --plain out')
    if openvla is not None:
        models = model_facts(openvla, spec, task.instruction, combinations)
        pairs = zip(combinations, models, strict=True)
        together = fit_together(openvla, combinations, models, bool(task.shape))
        is_random = bool(task.shape)
        return [
            Measurement(one, spec, model, is_random=is_random) for one, model in pairs
        ], together
    return [Measurement(one, spec) for one in combinations], True


class _Turns:
    """The inferences of the combinations, with the same observations in every repetition."""

    def __init__(self, task: Task, measurements: Sequence[Measurement]) -> None:
        self._task = task
        self._policies: dict[PolicyRequest, Policy] = {}
        self._batch_sizes: dict[PolicyRequest, int] = {}
        for one in measurements:
            key, size = one.combination.policy, one.combination.batch_size
            self._batch_sizes[key] = max(size, self._batch_sizes.get(key, 1))
        self._stride = max(self._batch_sizes.values())
        spec = measurements[0].spec
        in_batch = self._stride * len(spec.cameras)
        if 0 < len(task.images) < in_batch:
            raise PolicyError(
                f'{len(task.images)} images for batches of {in_batch}',
                'name at least as many as the largest batch, since repeated images come from the '
                'cache and would look free',
            )
        needed = in_batch * (1 + task.repeats)
        cycle = itertools.cycle(task.images or noise_images(needed))
        images = list(itertools.islice(cycle, needed))
        self._observations = make_observations(spec, images, task.instruction)
        self._token_ids: dict[object, NDArray[np.int64]] = {}  # by policy and observation

    def load(self, combination: Combination, say: Say) -> Loading | None:
        """Load the policy of a combination; return None if it is loaded already."""
        key = combination.policy
        if key in self._policies:
            return None
        size = self._batch_sizes[key]
        self._policies[key], loading = _load(combination, size, self._task, say)
        return loading

    def infer(self, measurement: Measurement, repetition: int) -> Infer:
        """Return a function that runs one batch, after everything else is prepared."""
        combination = measurement.combination
        policy = self._policies[combination.policy]
        torch.set_num_threads(combination.threads)
        first = self._stride * repetition
        numbers = range(first, first + combination.batch_size)
        batch = [
            (policy.session(combination.policy.unnorm_key or None), self._observations[number])
            for number in numbers
        ]
        drafts = [self._draft(measurement, number) for number in numbers]
        forget_images(policy)
        path = PlainPath(policy) if combination.is_plain else policy
        cancel = self._task.cancel

        def infer() -> list[Prediction]:
            for (session, _), draft in zip(batch, drafts, strict=True):
                offer_draft(session, draft)
            return all_predicted(path.predict(batch, cancel))

        return infer

    def remember(
        self, measurement: Measurement, repetition: int, predictions: Sequence[Prediction]
    ) -> None:
        """Remember the tokens of an answer that had no draft, as drafts of other combinations."""
        combination, tokens = measurement.combination, predictions[0].tokens
        is_own = combination.draft == 'none' and not combination.is_plain
        if is_own and combination.batch_size == 1 and tokens is not None:
            known = combination.policy, self._stride * repetition
            self._token_ids.setdefault(known, tokens.ids)

    def close(self) -> None:
        """Free the policies."""
        for policy in self._policies.values():
            policy.close()

    def _draft(self, measurement: Measurement, number: int) -> NDArray[np.int64] | None:
        """Return the draft for an observation, made of the policy's own first answer to it."""
        combination, model = measurement.combination, measurement.model
        if combination.draft == 'none' or model is None:
            return None
        known = (combination.policy, number)
        if known not in self._token_ids:
            policy = self._policies[combination.policy]
            session = policy.session(combination.policy.unnorm_key or None)
            batch = [(session, self._observations[number])]
            [prediction] = all_predicted(policy.predict(batch, self._task.cancel))
            if prediction.tokens is None:
                raise PolicyError('the prediction has no tokens for a draft', 'leave --draft out')
            self._token_ids[known] = prediction.tokens.ids
        right = self._token_ids[known]
        return right if combination.draft == 'right' else wrong_draft(right, model.action_ids)


def _measure_group(
    task: Task,
    measurements: Sequence[Measurement],
    say: Say,
    look_closer: Callable[[Infer], None] | None,
) -> None:
    """Load the policies, let the combinations take turns, and free the policies."""
    turns = _Turns(task, measurements)
    try:
        # The plain path last, so that its policy's own first inference is measured.
        for measurement in sorted(measurements, key=lambda one: one.combination.is_plain):
            measurement.loading = turns.load(measurement.combination, say)
            # The first inference with this combination's threads is not counted.
            turns.remember(measurement, 0, turns.infer(measurement, 0)())
        for repetition in range(1, 1 + task.repeats):
            say(f'repetition {repetition} of {task.repeats}')
            for measurement in measurements:
                infer = turns.infer(measurement, repetition)
                started = time.monotonic()
                predictions = infer()
                measurement.latencies_s.append(time.monotonic() - started)
                measurement.keep(predictions)
                turns.remember(measurement, repetition, predictions)
        if look_closer is not None:
            profiled = min(measurements, key=lambda one: one.combination.is_plain)
            say(f'profiling {profiled.combination}')
            look_closer(turns.infer(profiled, 0))
        for measurement in measurements:
            measurement.energy = _energy(turns, measurement, say)
    except InferenceCancelled:
        say('out of time')
    finally:
        turns.close()


def _energy(turns: _Turns, measurement: Measurement, say: Say) -> Energy | None:
    """Return the energy of one combination, which runs alone for some time."""
    meter = energy_meter(measurement.combination.policy.device)
    if meter.read is None:
        return None
    say(f'energy of {measurement.combination}')
    try:
        count, before, started = 0, meter.read(), time.monotonic()
        while count < _MIN_ENERGY_RUNS or time.monotonic() - started < _MIN_ENERGY_S:
            turns.infer(measurement, count % (1 + len(measurement.latencies_s)))()
            count += 1
        joules, seconds = meter.read() - before, time.monotonic() - started
    except OSError as error:
        say(f'no energy: {error}')
        return None
    return Energy(joules / count, joules / seconds, meter.source)


def _load(
    combination: Combination, max_batch_size: int, task: Task, say: Say
) -> tuple[Policy, Loading]:
    say(f'loading {combination}')
    torch.set_num_threads(combination.threads)
    peak = PeakMemory(combination.policy.device)
    started = time.monotonic()
    if task.shape:
        policy: Policy = load_random(combination.policy, task.shape, max_batch_size, task.cancel)
    else:
        policy = load_policy(combination.policy, max_batch_size)
    load_s = time.monotonic() - started
    say(f'warming up {combination}')
    times = _warm_up(policy, task)
    loading = Loading(
        load_s,
        times.total_s,
        times.first_inference_s or None,
        peak.resident_bytes(),
        peak.added_resident_bytes(),
        peak.added_device_bytes(),
        is_warm=times.steady_inference_s > 0,
        graphs=times.graphs,
    )
    return policy, loading


class _Either:
    """A Cancel that is set once one of two is."""

    def __init__(self, one: Cancel, other: Cancel) -> None:
        self._both = one, other

    def is_set(self) -> bool:
        return any(cancel.is_set() for cancel in self._both)


def _warm_up(policy: Policy, task: Task) -> WarmupTimes:
    """Return the times of the warm-up; 0 for an inference that did not end."""
    begun: list[float] = []  # of each of its inferences
    started = time.monotonic()
    try:
        return policy.warmup(
            lambda _: begun.append(time.monotonic()), _Either(task.cancel, task.cut_warmup)
        )
    except InferenceCancelled:
        if task.cancel.is_set():
            raise
        first_s = begun[1] - begun[0] if len(begun) > 1 else 0.0
        return WarmupTimes(time.monotonic() - started, first_s, 0.0)
