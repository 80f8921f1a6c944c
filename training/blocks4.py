# SPDX-License-Identifier: Apache-2.0
"""Trains models/blocks4, a small OpenVLA-OFT that gives chunks, by imitating the world's expert.

    python -m training.blocks4 OUT --minutes 7.5 --processes 14 --device cuda

One run, from nothing to its end, within the minutes: processes make frames all the time
(:mod:`training.gather`), and this one trains with all of them. At first the expert drives, partly
with a shaky hand, then mostly the policy. The learning rate follows the clock and ends at zero; at
the end the processes judge the result. OUT gets the checkpoint and the log.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from training.chunks import Chunker
from training.gather import (
    ACTION_DIM,
    HORIZON,
    JUDGE,
    LABELS,
    LEAVE,
    NUMBERS,
    PLACES,
    POLICY,
    STATE_DIM,
    WAYS,
    Shared,
    work,
)
from training.train import decaying, norm_stats
from vla_ros.openvla.layout import LAYOUT_NAME, Layout, layout_text
from vla_ros.openvla.model import stored_key
from vla_ros.simulation import CONTRACT
from vla_ros.simulation.blocks4 import INSTRUCTIONS
from vla_ros.simulation.scene import IMAGE_SIZE
from vla_ros.synthetic.checkpoint_writer import write_checkpoint
from vla_ros.types import ONE_CAMERA

_WRITER = 'training/blocks4.py'
_LAYERS = 6
_STATISTICS = 'dataset_statistics.json'
_SMALL_FILES = (
    'config.json',
    'preprocessor_config.json',
    'tokenizer.json',
    LAYOUT_NAME,
    _STATISTICS,
)
# Tool's position and quaternion (x, y, z, w), and the opening of the fingers.
_STATE_LOW = [0.30, -0.25, 0.0, 0.4, 0.4, -0.3, -0.3, 0.0]
_STATE_HIGH = [0.70, 0.25, 0.3, 1.0, 1.0, 0.3, 0.3, 1.0]
_STATE_NOISE = [0.002] * 3 + [0.005] * 4 + [0.02]  # a node's state may be some milliseconds off
_LAYOUT = Layout(
    action_head='l1',
    horizon=HORIZON,
    action_dim=ACTION_DIM,
    cameras=(ONE_CAMERA,),
    state_dim=STATE_DIM,
    normalization='q01_q99',
    film=False,
    prompt='openvla',
)


@dataclass(frozen=True)
class Settings:
    """The settings of a training.

    :param minutes: of the whole run.
    :param processes: that make frames.
    :param frames: that are kept; the oldest go first.
    :param batch_size: number of images, each with the labels of all instructions.
    :param first_frames: with which the training begins.
    :param expert_share: share of the training's time in which the policy does not drive yet.
    :param newest_share: share of a batch that is from the newest quarter of the frames.
    :param judge_share: share of the minutes for the evaluation, at most ``judge_s``.
    :param judge_starts: starts of the evaluation, for each way and instruction.
    :param seed: of all random numbers; what the policy meets depends on the machine, too.
    :param first_start: first start for training; those of evaluation are below.
    """

    minutes: float = 7.5
    processes: int = 14
    device: str = 'cuda'
    frames: int = 240_000
    batch_size: int = 512
    judge_starts: int = 100
    slots: int = 96
    first_frames: int = 4000
    expert_share: float = 0.08
    newest_share: float = 0.3
    judge_share: float = 0.15
    judge_s: float = 45.0
    seed: int = 0
    first_start: int = 100_000
    learning_rate: float = 1.5e-3
    warmup_steps: int = 300
    weight_decay: float = 0.05
    max_gradient: float = 1.0
    average: float = 0.999  # of the weights that are written
    gripper_weight: float = 1.5  # its values are 0 and 1, those of the others from -1 to 1

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == 'cuda' else torch.float32


class Store:
    """The frames, on the device; the oldest are overwritten."""

    def __init__(self, settings: Settings) -> None:
        self._size, device = settings.frames, settings.device
        shape = (self._size, IMAGE_SIZE, IMAGE_SIZE, 3)
        self._images = torch.empty(shape, dtype=torch.uint8, device=device)
        self._numbers = torch.empty(self._size, NUMBERS, device=device)
        self._newest_share = settings.newest_share
        self.added = self.policys = 0

    def drain(self, shared: Shared) -> None:
        """Take what the processes have made."""
        for rank in range(shared.processes):
            written, read = int(shared.counts[rank, 0]), int(shared.counts[rank, 1])
            while read < written:
                slot, place = read % shared.slots, self.added % self._size
                count = min(written - read, shared.slots - slot, self._size - place)
                numbers = torch.from_numpy(np.array(shared.numbers[rank, slot : slot + count]))
                images = torch.from_numpy(np.array(shared.images[rank, slot : slot + count]))
                self._images[place : place + count].copy_(images)
                self._numbers[place : place + count].copy_(numbers)
                self.policys += int(numbers[:, -1].sum())
                self.added, read = self.added + count, read + count
                shared.counts[rank, 1] = read

    def newest(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the newest images and numbers."""
        where = torch.arange(max(0, self.added - count), self.added, device=self._images.device)
        where %= self._size
        return self._images[where], self._numbers[where]

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Return images uint8 [B, 224, 224, 3] and numbers float32 [B, NUMBERS]."""
        there, device = min(self.added, self._size), self._images.device
        back = torch.rand(count, device=device) * there
        newest = round(self._newest_share * count)
        back[:newest] *= 0.25  # frames before the newest one
        where = (self.added - 1 - back.long()) % self._size
        return self._images[where], self._numbers[where]


class Trainer:
    """The process that trains."""

    def __init__(self, out: Path, settings: Settings) -> None:
        self._started_s = time.monotonic()
        self._out, self._settings = out, settings
        torch.manual_seed(settings.seed)
        self._scratch = Path(tempfile.mkdtemp(dir=_roomy()))
        self._fresh = write_fresh(self._scratch / 'fresh')
        chunker = Chunker(self._fresh, INSTRUCTIONS, PLACES)
        self._chunker = chunker.to(settings.device)
        self._average = [value.detach().clone() for value in chunker.learning().values()]
        self._optimizer = torch.optim.AdamW(
            decaying(chunker.learning(), settings.weight_decay),
            lr=0.0,
            betas=(0.9, 0.98),
            fused=settings.device == 'cuda',
        )
        weights = sum(value.numel() for value in self._average)
        self._shared = Shared(self._scratch, settings.processes, settings.slots, weights)
        self._store = Store(settings)
        sigmas = 2 * np.array(_STATE_NOISE) / np.subtract(_STATE_HIGH, _STATE_LOW)
        self._state_noise = torch.tensor(sigmas, device=settings.device).float()
        weight = torch.tensor([1.0] * 6 + [settings.gripper_weight], device=settings.device)
        self._row_weight = weight
        self._step = 0

    def run(self) -> None:
        """Train, judge and write.

        :raises RuntimeError: if no process makes frames, or the loss is not finite.
        """
        settings = self._settings
        self._say(event='settings', **asdict(settings), torch=torch.__version__)
        processes = self._start()
        try:
            self._wait_for_frames(processes)
            total_s = 60 * settings.minutes
            judge_s = min(settings.judge_s, settings.judge_share * total_s)
            self._train(until_s=total_s - judge_s - 0.01 * total_s - 3)
            self._publish()
            self._write(self._out / 'checkpoint')
            self._say(event='trained', step=self._step, frames=self._store.added)
            self._judge(until_s=total_s - 0.01 * total_s)
        finally:
            self._shared.orders[0] = LEAVE
            deadline_s = time.monotonic() + 5
            for process in processes:
                process.join(max(0.1, deadline_s - time.monotonic()))
                process.kill()
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._say(event='end')

    def _start(self) -> list[Any]:
        context, settings = multiprocessing.get_context('spawn'), self._settings
        processes = []
        for rank in range(settings.processes):
            arguments = (self._shared, rank, self._fresh, settings.first_start)
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            processes.append(process)
        return processes

    def _wait_for_frames(self, processes: list[Any]) -> None:
        """Wait for the first frames, at most a quarter of the time."""
        while self._store.added < self._settings.first_frames:
            time.sleep(0.1)
            self._store.drain(self._shared)
            if not any(process.is_alive() for process in processes):
                raise RuntimeError('no process makes frames; their errors are above')
            if self._seconds() > 15 * self._settings.minutes:
                if not self._store.added:
                    raise RuntimeError('there are no frames after a quarter of the time')
                break
        self._say(event='begins', frames=self._store.added)

    def _train(self, until_s: float) -> None:
        settings, start_s = self._settings, self._seconds()
        published_s = said_s = written_s = start_s
        while (now_s := self._seconds()) < until_s:
            share = (now_s - start_s) / (until_s - start_s)
            loss, places = self._learn(share)
            if self._step % 8 == 0:
                self._store.drain(self._shared)
            if share > settings.expert_share and now_s - published_s > 0.01 * until_s:
                self._publish()
                self._shared.orders[0], published_s = POLICY, now_s
            if now_s - said_s > 0.02 * until_s:
                self._report(float(loss), float(places))
                said_s = now_s
            if now_s - written_s > 0.25 * until_s:
                self._write(self._out / 'checkpoint')
                written_s = now_s

    def _learn(self, share: float) -> tuple[Tensor, Tensor]:
        """Take one step of the optimiser.

        :param share: of the time that has passed.
        """
        settings = self._settings
        images, numbers = self._store.sample(settings.batch_size)
        labels, states, truth = _parts(numbers)
        pixels = self._chunker.pixel_values(_varied(images, settings.dtype))
        states = states + self._state_noise * torch.randn_like(states)
        parameters = {
            name: value.to(settings.dtype) for name, value in self._chunker.learning().items()
        }
        chunks, seen = functional_call(
            self._chunker, parameters, (pixels, states.to(settings.dtype))
        )
        loss = (self._row_weight * (chunks.float() - labels).abs()).mean()
        places = F.smooth_l1_loss(seen.float(), truth)
        self._optimizer.zero_grad()
        (loss + places).backward()
        torch.nn.utils.clip_grad_norm_(self._chunker.parameters(), settings.max_gradient)
        rise = min(1.0, (self._step + 1) / settings.warmup_steps)
        rate = settings.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        for group in self._optimizer.param_groups:
            group['lr'] = rate
        self._optimizer.step()
        self._step += 1
        average = min(settings.average, self._step / (self._step + 10))
        with torch.no_grad():
            current: list[Tensor] = [*self._chunker.learning().values()]
            torch._foreach_lerp_(self._average, current, 1 - average)
        return loss.detach(), places.detach()

    def _report(self, loss: float, places: float) -> None:
        """Log the losses, and the averaged weights' errors in the newest frames."""
        if not math.isfinite(loss):
            raise RuntimeError(f'the loss is {loss} after step {self._step}')
        images, numbers = self._store.newest(min(512, self._settings.batch_size))
        labels, states, _ = _parts(numbers)
        dtype = self._settings.dtype
        with torch.no_grad():
            pixels = self._chunker.pixel_values(images.permute(0, 3, 1, 2).to(dtype))
            averaged = {name: value.to(dtype) for name, value in self._averaged().items()}
            chunks, _ = functional_call(self._chunker, averaged, (pixels, states.to(dtype)))
            far = (chunks.float() - labels).abs().mean(dim=(0, 1)).cpu().numpy()  # [K, D]
        scale = self._chunker.statistics
        to_mm = 500 * float((scale.high - scale.low)[:3].mean())
        self._say(
            step=self._step,
            loss=round(loss, 4),
            places=round(places, 4),
            frames=self._store.added,
            policys=self._store.policys,
            episodes=int(self._shared.counts[:, 2].sum()),
            first_row_mm=round(float(far[0, :3].mean() * to_mm), 2),
            all_rows_mm=round(float(far[:, :3].mean() * to_mm), 2),
            gripper=round(float(far[:, 6].mean()), 4),
        )

    def _averaged(self) -> dict[str, Tensor]:
        return dict(zip(self._chunker.learning(), self._average, strict=True))

    def _publish(self) -> None:
        """Give the averaged weights, rounded as they are written, to the processes."""
        flat = torch.cat([value.flatten() for value in self._average])
        rounded = flat.bfloat16().float().cpu().numpy()
        self._shared.orders[1] += 1
        self._shared.weights[:] = rounded
        self._shared.orders[1] += 1

    def _judge(self, until_s: float) -> None:
        shared, settings = self._shared, self._settings
        shared.orders[2] = settings.judge_starts
        shared.orders[0] = JUDGE
        expected = settings.judge_starts * len(WAYS) * len(INSTRUCTIONS)
        while self._seconds() < until_s and shared.judged[..., 0].sum() < expected:
            time.sleep(0.1)
        judged = shared.judged.sum(axis=0)  # [ways, I, 2]
        for way, per_instruction in zip(WAYS, judged, strict=True):
            self._say(
                judged=way.name,
                **{
                    text: f'{int(done)} of {int(episodes)}'
                    for text, (episodes, done) in zip(INSTRUCTIONS, per_instruction, strict=True)
                },
            )

    def _write(self, directory: Path) -> None:
        write_trained(directory, self._fresh, self._chunker.tensors(self._averaged()))

    def _seconds(self) -> float:
        return time.monotonic() - self._started_s

    def _say(self, **what: Any) -> None:
        line = json.dumps({'s': round(self._seconds(), 1), **what})
        print(line, flush=True)
        with (self._out / 'log.jsonl').open('a') as log:
            log.write(line + '\n')


def all_statistics() -> dict[str, Any]:
    """Return the content of dataset_statistics.json."""
    [(key, entry)] = norm_stats().items()
    state = {'q01': _STATE_LOW, 'q99': _STATE_HIGH, 'mask': [True] * STATE_DIM}
    assert key == CONTRACT.unnorm_key
    return {key: {**entry, 'proprio': state}}


def write_fresh(directory: Path) -> Path:
    """Write a checkpoint of OpenVLA's layout and of this model's shape; its weights are zero."""
    write_checkpoint(
        directory, 'blocks', all_statistics(), lambda _, size: torch.zeros(size).bfloat16(), _WRITER
    )
    path = directory / 'config.json'
    config = json.loads(path.read_text())
    config['text_config']['num_hidden_layers'] = _LAYERS
    path.write_text(json.dumps(config, indent=2) + '\n')
    (directory / LAYOUT_NAME).write_text(layout_text(_LAYOUT))
    statistics = json.dumps(all_statistics(), indent=2) + '\n'
    (directory / _STATISTICS).write_text(statistics)
    return directory


def write_trained(directory: Path, fresh: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the checkpoint.

    :param fresh: :func:`write_fresh`'s folder.
    :param tensors: by the model's names.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in _SMALL_FILES:
        shutil.copy(fresh / name, directory / name)
    stored = {
        stored_key(name): value.detach().cpu().bfloat16().contiguous()
        for name, value in tensors.items()
    }
    save_file(stored, directory / 'model.safetensors', metadata={'format': 'pt'})


def _parts(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the labels [B, I, K, D], the states [B, S] and the places of frames."""
    labels, states, truth, _ = numbers.split([LABELS, STATE_DIM, PLACES, 1], dim=1)
    return labels.unflatten(1, (len(INSTRUCTIONS), HORIZON, ACTION_DIM)), states, truth


def _varied(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return images with other light, noise, and shifts of half a pixel: [B, 3, 224, 224].

    So that it does not matter which program drew them.

    :param images: uint8 [B, 224, 224, 3].
    """
    levels, count = images.permute(0, 3, 1, 2).to(dtype), len(images)

    def some(spread: float, *shape: int) -> Tensor:
        return spread * (2 * torch.rand(shape, dtype=dtype, device=images.device) - 1)

    for dim in (2, 3):
        shift = some(0.4, count, 1, 1, 1)
        sides = [levels.roll(way, dim) for way in (-1, 1)]
        levels = (1 - shift.abs()) * levels
        levels += shift.clamp(min=0) * sides[0] + (-shift).clamp(min=0) * sides[1]
    gain, offset = 1 + some(0.08, count, 3, 1, 1), some(10.0, count, 3, 1, 1)
    noise = torch.randn(levels.shape, dtype=dtype, device=levels.device)
    levels = levels * gain + offset + noise * (4 * torch.rand_like(gain[:, :1]))
    return levels.clamp(0, 255)


def _roomy() -> str | None:
    """Return a folder in memory, if there is one with room; None: the usual one."""
    memory = Path('/dev/shm')
    if memory.is_dir() and shutil.disk_usage(memory).free > 1_000_000_000:
        return str(memory)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(prog='training.blocks4', description=__doc__)
    parser.add_argument('directory', type=Path, metavar='OUT')
    usual = Settings()
    for name in ('minutes', 'processes', 'device', 'frames', 'batch_size', 'judge_starts'):
        default = getattr(usual, name)
        option = '--' + name.replace('_', '-')
        parser.add_argument(option, dest=name, type=type(default), default=default)
    options = vars(parser.parse_args())
    out = options.pop('directory')
    out.mkdir(parents=True, exist_ok=True)
    most = max(1, options['frames'] // 8)
    settings = Settings(**options, first_frames=min(usual.first_frames, most))
    torch.set_num_threads(1 if settings.device == 'cuda' else 2)
    if settings.device == 'cuda':
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision('high')
        torch.backends.cuda.enable_cudnn_sdp(False)  # it is picky about masks
    try:
        Trainer(out, settings).run()
    except RuntimeError as error:
        sys.exit(f'training.blocks4: {error}')


if __name__ == '__main__':
    main()
