"""Measurement of inferences, in which the combinations take turns.

Other load of the machine then affects all combinations equally.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vla_ros.bench.combinations import Combination
from vla_ros.bench.memory import loaded_together
from vla_ros.console import Say
from vla_ros.measure.memory import PeakMemory
from vla_ros.measure.pictures import noise_pictures
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.costs import Costs, count_costs
from vla_ros.openvla.placement import DTYPES
from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.policy_request import PolicyRequest
from vla_ros.types import Observation, PolicyError, Prediction, TokenTrace, all_predicted

Infer = Callable[[], list[Prediction]]


@dataclass(frozen=True)
class Loading:
    """The time and memory to load and warm up a policy.

    :param first_s: duration of the warm-up's first inference.
    :param peak_resident_bytes: the process's peak memory during this time, with mapped files.
    :param added_resident_bytes: the peak minus the memory before.
    :param added_device_bytes: peak minus the memory before on the device; None on the CPU.
    """

    load_s: float
    warmup_s: float
    first_s: float
    peak_resident_bytes: int
    added_resident_bytes: int
    added_device_bytes: int | None


@dataclass
class Measurement:
    """The measurement of one combination.

    :param action_ids: the token ids of bins.
    :param loading: None if it uses the policy of an earlier combination.
    :param latencies_s: duration of each repetition, which is one batch.
    :param timings: seconds for each stage, for each repetition.
    :param token_ids: token ids of each repetition's actions.
    :param drafted: number of draft tokens that were verified, over all repetitions.
    :param accepted: number of these that were right.
    """

    combination: Combination
    costs: Costs
    action_ids: range
    action_dim: int = 0
    loading: Loading | None = None
    latencies_s: list[float] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)
    token_ids: list[list[list[int]]] = field(default_factory=list)
    valid: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Task:
    """The inputs of all inferences.

    :param directory: checkpoint.
    :param repeats: steady repetitions of each combination.
    :param images: uint8 [H, W, 3] each, used in turn; empty: new noise each time.
    """

    directory: Path
    instruction: str
    repeats: int
    images: Sequence[NDArray[np.uint8]] = ()


def measure(
    task: Task,
    combinations: Sequence[Combination],
    say: Say,
    look_closer: Callable[[Infer], None] | None = None,
) -> tuple[list[Measurement], bool]:
    """Measure all combinations; torch's number of threads is restored at the end.

    :param look_closer: called with a function that runs one more inference of the first
        combination.
    :returns: one measurement for each combination, in order; and whether all took turns. If the
        policies do not fit into memory together, only combinations that share a policy take turns.
    :raises PolicyError: if a policy can't be loaded or can't predict.
    """
    threads = torch.get_num_threads()
    try:
        measurements = _prepare(task, combinations)
        costs = [one.costs for one in measurements]
        together = loaded_together(combinations, costs, Checkpoint(task.directory))
        keys = list(dict.fromkeys(combination.policy for combination in combinations))
        for group in [keys] if together else [[key] for key in keys]:
            members = [one for one in measurements if one.combination.policy in group]
            _measure_group(task, members, say, look_closer)
            look_closer = None
    finally:
        torch.set_num_threads(threads)
    return measurements, together


def _prepare(task: Task, combinations: Sequence[Combination]) -> list[Measurement]:
    """Return measurements with the values that are known before a policy is loaded."""
    config = OpenVLAConfig.from_directory(task.directory)
    tokenizer = PromptTokenizer(task.directory, config)
    prompt_tokens = tokenizer.padded_length(tokenizer(task.instruction).shape[1])
    places = config.norm_stats[config.longest_key].action_dim - 1
    action_tokenizer = config.action_tokenizer
    action_ids = range(action_tokenizer.first_id, action_tokenizer.vocab_size)

    @functools.cache  # threads and drafts do not change the costs
    def costs(policy: PolicyRequest, batch_size: int) -> Costs:
        tokens, rows = prompt_tokens + places, places + 1
        dtype, quantization, device = DTYPES[policy.dtype], policy.quantization, policy.device
        return count_costs(config, dtype, tokens, batch_size, quantization, device, rows=rows)

    return [Measurement(one, costs(one.policy, one.batch_size), action_ids) for one in combinations]


class _Turns:
    """The inferences of the combinations, with the same images in every repetition."""

    def __init__(self, task: Task, measurements: Sequence[Measurement]) -> None:
        self._task = task
        self._policies: dict[object, OpenVLAPolicy] = {}
        self._batch_sizes: dict[object, int] = {}
        for one in measurements:
            key, size = one.combination.policy, one.combination.batch_size
            self._batch_sizes[key] = max(size, self._batch_sizes.get(key, 1))
        self._stride = max(self._batch_sizes.values())
        if 0 < len(task.images) < self._stride:
            raise PolicyError(
                f'{len(task.images)} images for batches of {self._stride}',
                'name at least as many as the largest batch, since repeated images come from the '
                'cache and would look free',
            )
        needed = self._stride * (1 + task.repeats)
        cycle = itertools.cycle(task.images or noise_pictures(needed))
        self._images = list(itertools.islice(cycle, needed))
        self._token_ids: dict[object, NDArray[np.int64]] = {}  # by policy and image

    def load(self, combination: Combination, say: Say) -> Loading | None:
        """Load the policy of a combination; return None if it is loaded already."""
        key = combination.policy
        if key in self._policies:
            return None
        self._policies[key], loading = _load(self._task, combination, self._batch_sizes[key], say)
        return loading

    def infer(self, combination: Combination, repetition: int) -> Infer:
        """Return a function that runs one batch, after everything else is prepared."""
        policy = self._policies[combination.policy]
        torch.set_num_threads(combination.threads)
        first = self._stride * repetition
        numbers = range(first, first + combination.batch_size)
        batch = [
            (policy.session(policy.config.longest_key), self._observation(number))
            for number in numbers
        ]
        drafts = [self._draft(policy, combination, number) for number in numbers]
        policy.reset()  # no image may come from the cache

        def infer() -> list[Prediction]:
            for (session, _), draft in zip(batch, drafts, strict=True):
                session.draft = draft
            return all_predicted(policy.predict(batch))

        return infer

    def close(self) -> None:
        """Free the policies."""
        for policy in self._policies.values():
            policy.close()

    def _observation(self, number: int) -> Observation:
        return Observation.of_one(self._images[number], self._task.instruction, number)

    def _draft(
        self, policy: OpenVLAPolicy, combination: Combination, number: int
    ) -> NDArray[np.int64] | None:
        """Return the draft for an image, made of the policy's own first answer to it."""
        if combination.draft == 'none':
            return None
        known = (combination.policy, number)
        if known not in self._token_ids:
            plain = (policy.session(policy.config.longest_key), self._observation(number))
            [prediction] = all_predicted(policy.predict([plain]))
            self._token_ids[known] = _tokens(prediction).ids
        draft = self._token_ids[known]
        if combination.draft == 'wrong':
            tokenizer = policy.config.action_tokenizer
            bins = tokenizer.vocab_size - tokenizer.first_id
            draft = tokenizer.first_id + (draft - tokenizer.first_id + bins // 2) % bins
        return draft


def _measure_group(
    task: Task,
    measurements: Sequence[Measurement],
    say: Say,
    look_closer: Callable[[Infer], None] | None,
) -> None:
    """Load the policies, let the combinations take turns, and free the policies."""
    turns = _Turns(task, measurements)
    for measurement in measurements:
        measurement.loading = turns.load(measurement.combination, say)
        # The first inference with this combination's threads is not counted.
        measurement.action_dim = len(turns.infer(measurement.combination, 0)()[0].action)
    for repetition in range(1, 1 + task.repeats):
        say(f'repetition {repetition} of {task.repeats}')
        for measurement in measurements:
            infer = turns.infer(measurement.combination, repetition)
            started = time.monotonic()
            predictions = infer()
            measurement.latencies_s.append(time.monotonic() - started)
            measurement.timings.append(dict(predictions[0].timings))
            measurement.valid += sum(one.invalid is None for one in predictions)
            tokens = [_tokens(one) for one in predictions]
            measurement.token_ids.append([one.ids.tolist() for one in tokens])
            measurement.drafted += sum(one.drafted for one in tokens)
            measurement.accepted += sum(one.accepted for one in tokens)
    if look_closer is not None:
        say(f'a closer look at {measurements[0].combination}')
        look_closer(turns.infer(measurements[0].combination, 0))
    turns.close()


def _tokens(prediction: Prediction) -> TokenTrace:
    if prediction.tokens is None:
        raise ValueError('the policy decodes no tokens')
    return prediction.tokens


def _load(
    task: Task, combination: Combination, max_batch_size: int, say: Say
) -> tuple[OpenVLAPolicy, Loading]:
    say(f'loading {combination}')
    torch.set_num_threads(combination.threads)
    peak = PeakMemory(combination.policy.device)
    started = time.monotonic()
    policy = OpenVLAPolicy.from_pretrained(
        task.directory,
        combination.policy.device,
        combination.policy.dtype,
        combination.policy.quantization,
        compile=combination.policy.compile,
        max_batch_size=max_batch_size,
    )
    load_s = time.monotonic() - started
    say(f'warming up {combination}')
    times = policy.warmup()
    loading = Loading(
        load_s,
        times.total_s,
        times.first_inference_s,
        peak.resident_bytes(),
        peak.added_resident_bytes(),
        peak.added_device_bytes(),
    )
    return policy, loading
