"""Runs the inferences: loads and warms each policy, then lets the combinations take turns.

In turns, so that whatever else the machine does meets all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vla_ros.bench.combinations import Combination, Say
from vla_ros.bench.costs import Costs, count_costs
from vla_ros.bench.memory import PeakMemory, loaded_together
from vla_ros.bench.pictures import noise_pictures
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.placement import DTYPES
from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.types import Prediction

Infer = Callable[[], Prediction]


@dataclass(frozen=True)
class Loading:
    """What it took to have a policy ready, once.

    :param first_s: the warm-up's first inference.
    :param peak_resident_bytes: most that the process had meanwhile, mapped files included.
    :param added_resident_bytes: the same, less what it had before.
    :param added_device_bytes: most that was added on the device; None on the CPU.
    """

    load_s: float
    warmup_s: float
    first_s: float
    peak_resident_bytes: int
    added_resident_bytes: int
    added_device_bytes: int | None


@dataclass
class Measurement:
    """Of one combination.

    :param loading: None if it uses the policy of an earlier combination.
    :param latencies_s: of each repetition.
    :param timings: seconds per stage, of each repetition.
    :param token_ids: of each repetition's action.
    """

    combination: Combination
    costs: Costs
    action_dim: int = 0
    loading: Loading | None = None
    latencies_s: list[float] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)
    valid: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """:param repeats: steady repetitions of each combination."""

    directory: Path
    instruction: str
    repeats: int


def measure(
    task: Task,
    combinations: Sequence[Combination],
    say: Say,
    look_closer: Callable[[Infer], None] | None = None,
) -> tuple[list[Measurement], bool]:
    """Measure all; torch's number of threads is as before at the end.

    :param look_closer: gets what makes one more inference of the first combination.
    :returns: one for each combination, in order; and whether all took turns. If their policies do
        not fit into memory together, only those that share a policy do.
    :raises PolicyError: if a policy can't be loaded or does not do what was asked.
    """
    threads = torch.get_num_threads()
    try:
        measurements = _prepare(task, combinations)
        together = loaded_together(combinations, Checkpoint(task.directory))
        keys = list(dict.fromkeys(combination.policy_key for combination in combinations))
        for group in [keys] if together else [[key] for key in keys]:
            members = [one for one in measurements if one.combination.policy_key in group]
            _measure_group(task, members, say, look_closer)
            look_closer = None
    finally:
        torch.set_num_threads(threads)
    return measurements, together


def _prepare(task: Task, combinations: Sequence[Combination]) -> list[Measurement]:
    """All that is known before a policy is loaded."""
    config = OpenVLAConfig.from_directory(task.directory)
    tokenizer = PromptTokenizer(task.directory, config)
    prompt_tokens = tokenizer.padded_length(tokenizer(task.instruction).shape[1])
    measurements = []
    for combination in combinations:
        dtype = DTYPES[combination.dtype]
        costs = count_costs(config, dtype, prompt_tokens, combination.batch_size)
        measurements.append(Measurement(combination, costs))
    return measurements


def _measure_group(
    task: Task,
    measurements: Sequence[Measurement],
    say: Say,
    look_closer: Callable[[Infer], None] | None,
) -> None:
    """Load what they need, let them take turns, and give the memory back."""
    policies: dict[object, OpenVLAPolicy] = {}
    pictures = noise_pictures(1 + task.repeats)

    def infer(measurement: Measurement, picture: NDArray[np.uint8]) -> Prediction:
        policy = policies[measurement.combination.policy_key]
        torch.set_num_threads(measurement.combination.threads)
        return policy.predict_action(picture, task.instruction, policy.config.longest_key)

    for measurement in measurements:
        combination = measurement.combination
        if combination.policy_key not in policies:
            policies[combination.policy_key], measurement.loading = _load(task, combination, say)
        # Not counted: the first with this combination's threads.
        measurement.action_dim = len(infer(measurement, pictures[0]).action)
    for number, picture in enumerate(pictures[1:], start=1):
        say(f'repetition {number} of {task.repeats}')
        for measurement in measurements:
            started = time.monotonic()
            prediction = infer(measurement, picture)
            measurement.latencies_s.append(time.monotonic() - started)
            measurement.timings.append(dict(prediction.timings))
            measurement.token_ids.append(prediction.token_ids.tolist())
            measurement.valid.append(prediction.valid)
    if look_closer is not None:
        say(f'a closer look at {measurements[0].combination}')
        look_closer(lambda: infer(measurements[0], pictures[0]))
    for policy in policies.values():
        policy.close()


def _load(task: Task, combination: Combination, say: Say) -> tuple[OpenVLAPolicy, Loading]:
    say(f'loading {combination}')
    torch.set_num_threads(combination.threads)
    peak = PeakMemory(combination.device)
    started = time.monotonic()
    policy = OpenVLAPolicy.from_pretrained(
        task.directory,
        combination.device,
        combination.dtype,
        combination.quantization,
        compile=combination.compile,
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
