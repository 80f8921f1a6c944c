# SPDX-License-Identifier: Apache-2.0
"""A survey of a machine: all that a user asks about its devices, in one run of limited time.

First the golden cases, where they are available. Then sections, each of one shape of a model with
random weights on one device, the most important ones first. A section that fails, does not fit or
has no time left says so, and the next one follows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vla_ros.bench.ceilings import Known, measure_ceilings
from vla_ros.bench.combinations import combine, locate
from vla_ros.bench.golden import Exactness, compare_with_golden, golden_folder
from vla_ros.bench.measure import Infer, Task, measure
from vla_ros.bench.profile import profile_inference
from vla_ros.bench.random_weights import described
from vla_ros.bench.report import summarize
from vla_ros.console import Say
from vla_ros.measure.energy import energy_meter
from vla_ros.measure.statistics import Summary
from vla_ros.openvla.placement import choose_device, choose_dtype
from vla_ros.types import InferenceCancelled, PolicyError

_RESERVE_S = 15.0  # of the time, for the report and the ceilings of what was measured last
_LEAST_S = 10.0  # that a section needs to give anything
_SHARE = 0.6  # of the time that is left, for one section
_WARMUP_SHARE = 0.5  # of a section's time, for loading and warming up
_REPEATS = {'cpu': 3, 'mps': 10, 'cuda': 15}
_BATCH_SIZES = {'cpu': (1,), 'mps': (1, 4), 'cuda': (1, 4, 8)}
_TINY = {
    'openvla-7b': 'tiny',
    'vla-adapter-pro': 'vla-adapter-pro-tiny',
    'openvla-oft': 'openvla-oft-tiny',
}


@dataclass(frozen=True)
class Section:
    """One shape on one device. Its combinations take turns.

    :param shape: one of ``SHAPES``.
    :param with_plain: whether the plain path is measured, too.
    """

    shape: str
    device: str
    dtype: str = 'auto'
    quantization: str = 'none'
    compile: bool = False
    cuda_graphs: bool = True
    batch_sizes: Sequence[int] = (1,)
    drafts: Sequence[str] = ('none',)
    with_plain: bool = False

    @property
    def options(self) -> str:
        """The options of vla_bench that measure this section alone."""
        words = [f'--random {self.shape} --device {self.device}']
        for name, value, default in (
            ('dtype', self.dtype, 'auto'),
            ('quantization', self.quantization, 'none'),
            ('compile', str(self.compile).lower(), 'false'),
            ('cuda-graphs', str(self.cuda_graphs).lower(), 'true'),
            ('batch-size', ','.join(map(str, self.batch_sizes)), '1'),
            ('draft', ','.join(self.drafts), 'none'),
        ):
            words += [f'--{name} {value}'] if value != default else []
        return ' '.join([*words, *(['--plain'] if self.with_plain else [])])


class Deadline:
    """An end of time. It cancels what still runs then.

    :param seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end_s = time.monotonic() + seconds

    def left_s(self) -> float:
        """Return the time that is left; negative after the end."""
        return self._end_s - time.monotonic()

    def is_set(self) -> bool:
        """Return whether the end is reached."""
        return self.left_s() <= 0


def sections_of(devices: Sequence[str], tiny: bool = False) -> list[Section]:
    """Return the sections of a survey, the most important ones of all devices first.

    :param devices: resolved.
    :param tiny: whether shapes are replaced by tiny ones, to try the survey itself.
    """
    turns = itertools.zip_longest(*(_sections_of(device) for device in devices))
    found = [section for turn in turns for section in turn if section is not None]
    return [replace(one, shape=_TINY[one.shape]) for one in found] if tiny else found


def _sections_of(device: str) -> list[Section]:
    kind = device.partition(':')[0]
    drafts = ('none', 'right')
    openvla = Section('openvla-7b', device, drafts=drafts)
    adapter = Section('vla-adapter-pro', device)
    oft = Section('openvla-oft', device)
    first = replace(openvla, batch_sizes=_BATCH_SIZES[kind], with_plain=True)
    in_8_bits = replace(openvla, quantization='int8')
    found = [first, in_8_bits, replace(adapter, with_plain=True), replace(oft, with_plain=True)]
    if kind == 'cpu':  # what is fast comes first
        found = [first, replace(adapter, with_plain=True), in_8_bits]
    found += [
        replace(openvla, quantization='int4'),
        replace(adapter, quantization='int8'),
        replace(oft, quantization='int8'),
    ]
    if kind == 'cuda':
        found.insert(2, replace(openvla, cuda_graphs=False, drafts=('none',)))
        found += [Section('openvla-7b', device, 'float32'), replace(openvla, compile=True)]
    return found


def survey(
    devices: Sequence[str], minutes: float, instruction: str, say: Say, tiny: bool = False
) -> Summary:
    """Survey the devices, and return what was found.

    :param minutes: after which the survey ends.
    :raises PolicyError: if a device is not available here.
    """
    devices = [str(choose_device(device)) for device in devices]
    deadline = Deadline(60 * minutes - _RESERVE_S)
    report: Summary = {
        'energy': {device: energy_meter(device).source for device in devices},
        'golden': [asdict(one) for one in _golden(devices, deadline, say)],
        'sections': [],
        'operators': [],
    }
    ceilings: Known = {}
    for number, section in enumerate(sections_of(devices, tiny)):
        say(f'--- {section.options} ({deadline.left_s():.0f} s left)')
        operators = report['operators'] if number == 0 else None
        outcome = _outcome(section, instruction, deadline, ceilings, operators, say)
        if outcome['said']:
            say(outcome['said'])
        report['sections'].append({'options': section.options, **asdict(section), **outcome})
    return report


def _golden(devices: Sequence[str], deadline: Deadline, say: Say) -> Iterator[Exactness]:
    """Yield the agreement with the golden cases, in float32 and in the device's own dtype."""
    folder = golden_folder()
    if folder is None:
        say('the golden cases are in the source tree only: left out')
        return
    for device in devices:
        own = str(choose_dtype('auto', torch.device(device))).removeprefix('torch.')
        for dtype in dict.fromkeys(('float32', own)):
            say(f'golden cases on {device} in {dtype}')
            try:
                yield compare_with_golden(folder, device, dtype, deadline)
            except (InferenceCancelled, PolicyError, RuntimeError) as error:
                say(f'golden cases: {error or "out of time"}')


def _outcome(
    section: Section,
    instruction: str,
    deadline: Deadline,
    ceilings: Known,
    operators: list[Summary] | None,
    say: Say,
) -> Summary:
    """Return what a section found: ``said``, ``took_turns`` and ``combinations``.

    ``said`` is empty if everything was measured.

    :param ceilings: those that are known; more are added.
    :param operators: takes the operators of a profile; None: no profile.
    """
    if deadline.left_s() < _LEAST_S:
        return {'said': 'no time was left', 'took_turns': True, 'combinations': []}
    try:
        return _measured(section, instruction, deadline, ceilings, operators, say)
    except (PolicyError, RuntimeError, MemoryError, OSError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        return {'said': said[0], 'took_turns': True, 'combinations': []}


def _measured(
    section: Section,
    instruction: str,
    deadline: Deadline,
    ceilings: Known,
    operators: list[Summary] | None,
    say: Say,
) -> Summary:
    def look_closer(infer: Infer) -> None:
        with TemporaryDirectory() as folder:
            found = profile_inference(infer, Path(folder) / 'trace.json')
        if operators is not None:
            operators.extend(asdict(operator) for operator in found)

    combinations = combine(
        [section.device],
        [section.dtype],
        [section.quantization],
        [section.compile],
        section.batch_sizes,
        [torch.get_num_threads()],
        section.drafts,
        with_plain=section.with_plain,
        cuda_graphs=[section.cuda_graphs],
    )
    left_s = max(_LEAST_S, _SHARE * deadline.left_s())
    own, cut_warmup = Deadline(left_s), Deadline(_WARMUP_SHARE * left_s)
    repeats = _REPEATS[section.device.partition(':')[0]]
    with described(section.shape) as folder:
        measurements, took_turns = measure(
            Task(instruction, repeats, (), section.shape, own, cut_warmup),
            locate(combinations, folder),
            say,
            None if operators is None else look_closer,
        )
    done = [one for one in measurements if one.latencies_s]
    limits = measure_ceilings([one.combination for one in done], say, ceilings)
    missing = [one.combination for one in measurements if one not in done]
    said = []
    if any(one.loading is not None and not one.loading.is_warm for one in done):
        said.append('its warm-up was cut short')
    if missing:
        said.append(f'out of time before {", ".join(map(str, missing))}')
    combined = summarize(done, limits) if done else []
    return {'said': '; '.join(said), 'took_turns': took_turns, 'combinations': combined}
