# SPDX-License-Identifier: Apache-2.0
"""Trains models/blocks, a small OpenVLA, by imitating the simulation's expert, on a CPU.

    torchrun --nproc-per-node 2 -m training.train FOLDER

One process runs on each core. In the first stage the expert drives, partly with a shaky hand, and
the model learns from that. In the later stages the policy drives too, and the expert labels what it
meets (DAgger). FOLDER keeps the frames (3 GB for each 20000), the checkpoint after each stage, and
the log. Existing frames are used again: after a change of simulation or model take a new folder.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from training.frames import Driver, Frames, collect, shaky_expert
from training.imitation import Imitator
from vla_ros.openvla.policy import OpenVLAPolicy
from vla_ros.simulation import CONTRACT, INSTRUCTIONS, BlocksWorld
from vla_ros.simulation.expert import STEP_M, TURN_RAD
from vla_ros.synthetic.checkpoint_writer import write_checkpoint
from vla_ros.types import Observation

SHAPE = 'blocks'
_WRITER = 'training/train.py'  # of the checkpoints that may be written anew
# Alternating: a model of this size that was trained in float32 alone fails in bfloat16.
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    :param frames: number of new frames; the expert drives in the first stage, then the policy.
    :param steps: of the optimiser, with all frames so far.
    """

    frames: int
    steps: int


@dataclass(frozen=True)
class Settings:
    """The settings of a training.

    :param seed: of all random numbers.
    :param first_start: first start for training; those of evaluation are below.
    :param batch_size: number of images, each with the labels of all instructions.
    :param blur: of the targets, from the first step to the last [bins].
    :param policy_share: share of a batch's images that are from the policy's episodes.
    :param expert_share: share of the steps in the policy's episodes that the expert takes.
    """

    stages: tuple[Stage, ...] = (
        Stage(20_000, 1_500),
        Stage(3_000, 700),
        Stage(3_000, 700),
        Stage(4_000, 800),
        Stage(4_000, 1_000),
    )
    seed: int = 0
    first_start: int = 100_000
    validation_frames: int = 800
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    max_gradient: float = 1.0
    average: float = 0.998  # of the weights that are written
    blur: tuple[float, float] = (4.0, 1.0)
    policy_share: float = 0.5
    expert_share: float = 0.25

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate: a linear rise, times half a cosine."""
        rise = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def blur_at(self, step: int) -> float:
        first, last = self.blur
        return first + (last - first) * step / self.steps


class Trainer:
    """Process ``rank`` of ``size``; each trains with its share of the data."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory, self._settings = directory, settings
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._started_s = time.monotonic()
        torch.manual_seed(settings.seed)
        fresh = directory / f'fresh-{self._rank}'
        write_checkpoint(
            fresh, SHAPE, norm_stats(), lambda _, size: torch.zeros(size).bfloat16(), _WRITER
        )
        self._imitator = Imitator(fresh, tuple(INSTRUCTIONS))
        self._optimizer = torch.optim.AdamW(
            decaying(self._imitator.learning(), settings.weight_decay), lr=0.0, betas=(0.9, 0.98)
        )
        self._average = {
            name: value.detach().clone() for name, value in self._imitator.learning().items()
        }
        self._step = 0
        self._world = BlocksWorld()
        self._next_start = settings.first_start

    def run(self) -> None:
        self._collect('validation', self._settings.validation_frames, None)
        self._validation = self._frames('validation')
        policy: Path | None = None
        names: list[str] = []
        for number, stage in enumerate(self._settings.stages):
            names.append(f'frames-{number}')
            self._collect(names[-1], stage.frames, policy)
            policy = self._directory / f'checkpoint-{number}'
            state = self._directory / f'state-{number}.pt'
            if state.exists():
                self._restore(state)
                continue
            expert, *policies = [self._frames(name) for name in names]
            self._optimize(expert, [one for frames in policies for one in frames], stage.steps)
            if self._rank == 0:
                self._write(policy)
                self._save(state)
            dist.barrier()

    def _collect(self, name: str, frames: int, policy: Path | None) -> None:
        """Make frames, unless they exist.

        :param policy: the checkpoint of the policy that drives; None: the expert drives.
        """
        directory = self._directory / f'{name}-{self._rank}'
        starts = range(self._next_start + self._rank, self._next_start + frames, self._size)
        self._next_start += frames
        if not (directory / 'actions.npy').exists():
            driver_of = shaky_expert if policy is None else self._policy_driver(policy)
            collect(directory, self._world, starts, frames // self._size, driver_of)
        self._say(event='collected', frames=name)
        dist.barrier()

    def _policy_driver(self, checkpoint: Path) -> Callable[[int], Driver]:
        policy = OpenVLAPolicy.from_pretrained(checkpoint, device='cpu', dtype='float32')

        def driver_of(seed: int) -> Driver:
            random = np.random.default_rng([seed, 2])

            def drive(observation: Observation, expert: NDArray[np.float64]) -> NDArray[np.float64]:
                if random.random() < self._settings.expert_share:
                    return expert
                prediction = policy.predict_action(observation.image, observation.instruction)
                return prediction.action if prediction.invalid is None else expert

            return drive

        return driver_of

    def _frames(self, name: str) -> list[Frames]:
        return [Frames(self._directory / f'{name}-{rank}') for rank in range(self._size)]

    def _optimize(self, expert: Sequence[Frames], policy: Sequence[Frames], steps: int) -> None:
        """Take some steps of the optimiser.

        :param expert: frames in which the expert drove.
        :param policy: frames in which the policy drove; none in the first stage.
        """
        settings = self._settings
        random = np.random.default_rng([settings.seed, self._step])  # the same in all processes
        policy_count = round(settings.policy_share * settings.batch_size) if policy else 0
        batches = zip(
            _shuffled(expert, settings.batch_size - policy_count, random),
            _shuffled(policy, policy_count, random),
            strict=True,
        )
        for _ in range(steps):
            batch = [frame for some in next(batches) for frame in some]
            mine = batch[self._rank :: self._size]
            loss, places = self._imitator.loss(
                np.stack([frames.images[index] for frames, index in mine]),
                np.stack([frames.actions[index] for frames, index in mine]),
                np.stack([frames.places[index] for frames, index in mine]),
                settings.blur_at(self._step),
                _DTYPES[self._step % len(_DTYPES)],
            )
            self._optimizer.zero_grad()
            (loss + places).backward()
            self._share_gradients()
            for group in self._optimizer.param_groups:
                group['lr'] = settings.learning_rate_at(self._step)
            self._optimizer.step()
            self._follow()
            self._step += 1
            if self._step % 100 == 0:
                self._say(step=self._step, loss=float(loss.detach()), places=float(places.detach()))
            if self._step % 500 == 0:
                self._say(step=self._step, **self._validate())

    def _share_gradients(self) -> None:
        gradients = [p.grad for p in self._imitator.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat *= min(1 / self._size, self._settings.max_gradient / (float(flat.norm()) + 1e-9))
        for gradient, part in zip(
            gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def _follow(self) -> None:
        share = min(self._settings.average, self._step / (self._step + 10))
        for name, value in self._imitator.learning().items():
            self._average[name].lerp_(value, 1 - share)

    def _validate(self) -> Mapping[str, float]:
        """Return the mean errors of :meth:`Imitator.errors`, with the current weights."""
        frames = self._validation[self._rank]
        errors = torch.from_numpy(self._imitator.errors(frames.images, frames.actions))
        dist.all_reduce(errors)
        errors /= self._size
        return {
            f'error_{name}': float(value) for name, value in zip('xyzuvwg', errors, strict=True)
        }

    def _save(self, path: Path) -> None:
        """Save what an interrupted training needs to continue."""
        state = {'step': self._step, 'average': self._average}
        state |= {
            'imitator': self._imitator.state_dict(),
            'optimizer': self._optimizer.state_dict(),
        }
        torch.save(state, path)

    def _restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self._step, self._average = state['step'], state['average']
        self._imitator.load_state_dict(state['imitator'])
        self._optimizer.load_state_dict(state['optimizer'])

    def _write(self, directory: Path) -> None:
        weights = self._imitator.weights(self._average)
        write_checkpoint(
            directory,
            SHAPE,
            norm_stats(),
            lambda name, _: weights[name].to(torch.bfloat16),
            _WRITER,
        )

    def _say(self, **what: Any) -> None:
        if self._rank:
            return
        line = json.dumps({'s': round(time.monotonic() - self._started_s), **what})
        print(line, flush=True)
        with (self._directory / 'log.jsonl').open('a') as log:
            log.write(line + '\n')


def _shuffled(
    data: Sequence[Frames], count: int, random: np.random.Generator
) -> Iterator[list[tuple[Frames, int]]]:
    """Yield ``count`` frames at a time, without end; each frame once before any comes again."""
    where = [(frames, index) for frames in data for index in range(len(frames))]
    order: list[int] = []
    while True:
        while len(order) < count:
            order.extend(random.permutation(len(where)).tolist())
        yield [where[index] for index in order[:count]]
        del order[:count]


def norm_stats() -> dict[str, Any]:
    """Return statistics with the limits of the expert's actions; the gripper is not scaled."""
    most = [STEP_M] * 3 + [TURN_RAD] * 3
    return {
        CONTRACT.unnorm_key: {
            'action': {
                'q01': [*(-value for value in most), 0.0],
                'q99': [*most, 1.0],
                'mask': [True] * 6 + [False],
            },
            'num_trajectories': 0,
            'num_transitions': 0,
        }
    }


def decaying(learning: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimiser's groups: matrices decay; norms, biases, embeddings and head do not.

    :param learning: the trained parameters by name.
    """
    matrices = {
        name
        for name, value in learning.items()
        if value.dim() >= 2 and 'embed' not in name and 'head_rows' not in name
    }
    return [
        {
            'params': [value for name, value in learning.items() if (name in matrices) == decays],
            'weight_decay': weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog='training.train', description=__doc__)
    parser.add_argument('directory', type=Path, metavar='FOLDER')
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.directory.mkdir(parents=True, exist_ok=True)
    dist.init_process_group('gloo')
    settings = Settings()
    record, mine = options.directory / 'settings.json', json.dumps(asdict(settings), indent=2)
    if record.exists() and record.read_text() != mine:
        parser.error(f'{record} has other settings, its frames may not fit; take another folder')
    try:
        dist.barrier()
        record.write_text(mine)
        Trainer(options.directory, settings).run()
    finally:
        dist.destroy_process_group()


if __name__ == '__main__':
    main()
