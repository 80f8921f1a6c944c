# SPDX-License-Identifier: Apache-2.0
"""A graph gives the bits of what it was made of; where there is none, nothing is missing.

The graphs here are recordings on the CPU; test/gpu has CUDA's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from support.fake_cuda import Event, FakeCuda
from support.family_golden import CASES as FAMILY
from support.family_golden import PRO_CASE
from support.golden import CASES, picture
from support.graphs import (
    assert_graphs_change_no_bit,
    assert_same_bits,
    golden_batches,
    predicted,
    without_graphs,
)
from support.places import GOLDEN
from support.recording import TapeRecorder
from vla_ros.openvla import OpenVLAPolicy, costs, language, token_batch
from vla_ros.openvla import policy as policy_module
from vla_ros.openvla.costs import robot_bytes
from vla_ros.openvla.graphs import Backlog, CudaRecorder, Graphs, Recorder
from vla_ros.openvla.request import Request
from vla_ros.openvla.stages import Stages
from vla_ros.types import InferenceCancelled, Observation, Prediction

CPU = torch.device('cpu')
OUT_OF_MEMORY = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')


class Toy:
    """A function of twenty layers with a memory like a kv-cache's."""

    def __init__(self, recorder: Recorder) -> None:
        self.cancel = threading.Event()
        self.layers = 0
        self.memory = torch.zeros(3)
        self.surprise = 0.0
        self.graphs = Graphs(recorder, CPU, self.check_cancelled)

    def check_cancelled(self) -> None:
        if self.cancel.is_set():
            raise InferenceCancelled

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        for layer in range(20):
            self.check_cancelled()
            self.graphs.before_layer()
            self.layers += 1
            x = x * 0.5 + y + layer + self.surprise
        self.memory.copy_(x[0])
        return x.cumsum(1), (x > 1).long().argmax(1)

    def run(self, seed: int, rows: int = 2) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        inputs = [torch.randn(rows, 3, generator=generator) for _ in range(2)]
        return self.graphs.run('toy', self, *inputs)

    def plain(self, seed: int, rows: int = 2) -> tuple[Tensor, ...]:
        graphs, self.graphs = self.graphs, Graphs(None, CPU, self.check_cancelled)
        try:
            return self.run(seed, rows)
        finally:
            self.graphs = graphs


def equal(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(*both) for both in zip(first, second, strict=True))


def recorded(recorder: Recorder, *seeds: int) -> Toy:
    toy = Toy(recorder)
    with toy.graphs.making():
        for seed in seeds:
            assert equal(toy.run(seed), toy.plain(seed))
    return toy


def test_a_graph_gives_the_bits_of_its_function_in_three_pieces() -> None:
    recorder = TapeRecorder()
    toy = recorded(recorder, 1, 2)
    assert (recorder.pieces, len(toy.graphs)) == (3, 1)
    expected = [toy.plain(seed) for seed in range(5)]
    layers, results = toy.layers, [toy.run(seed) for seed in range(5)]
    assert toy.layers == layers  # no line of Python ran again
    assert all(map(equal, results, expected))  # each is kept, though the next overwrote it
    assert torch.equal(toy.memory, toy.plain(4)[0].diff(dim=1, prepend=torch.zeros(2, 1))[0])


def test_what_has_no_graph_runs_as_ever() -> None:
    recorder = TapeRecorder()
    toy = recorded(recorder, 1)
    repeated = recorder.repeated
    assert equal(toy.run(3, rows=4), toy.plain(3, rows=4))
    assert recorder.repeated == repeated and len(toy.graphs) == 1
    assert equal(Toy(recorder).run(1), toy.plain(1))  # nothing was recorded here


@pytest.mark.parametrize('fails_at', [1, 2, 3])
@pytest.mark.parametrize('error', [OUT_OF_MEMORY, RuntimeError('operation not permitted')])
def test_after_a_failure_it_runs_without_and_says_so(
    error: Exception, fails_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    toy = recorded(TapeRecorder(error, fails_at), 1, 2)
    assert len(toy.graphs) == 0 and toy.graphs.problem == str(error)
    assert [record.getMessage() for record in caplog.records] == [
        f'no CUDA graphs, the policy runs without: {error}'
    ]
    assert equal(toy.run(5), toy.plain(5))


def test_a_graph_that_differs_is_not_used() -> None:
    """By what the function reads beside its inputs: found when other inputs come."""
    toy = Toy(TapeRecorder())
    with toy.graphs.making():
        toy.run(1)
        assert not toy.graphs.problem
        toy.surprise = 1e-6
        assert equal(toy.run(1), toy.plain(1))
    assert 'differs from what it was made of' in toy.graphs.problem
    assert len(toy.graphs) == 0


@pytest.mark.parametrize('asked', range(3))
def test_it_can_be_cancelled_between_the_pieces(
    asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = TapeRecorder()
    toy = recorded(recorder, 1, 2)
    done = recorder.repeated

    def cancelled() -> None:
        if recorder.repeated == done + asked:
            raise InferenceCancelled

    monkeypatch.setattr(toy.graphs, '_check_cancelled', cancelled)
    with pytest.raises(InferenceCancelled):
        toy.run(3)
    assert recorder.repeated == done + asked
    monkeypatch.undo()
    assert equal(toy.run(3), toy.plain(3))


@pytest.mark.parametrize('moment', ['begin', 'end'])
def test_a_recording_and_its_comparison_can_be_cancelled(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is no graph, and none is made later."""
    recorder = TapeRecorder()
    toy = Toy(recorder)
    original = getattr(recorder, moment)

    def cancel_after() -> object:
        result = original()
        if moment == 'begin' or recorder.pieces == 3:
            toy.cancel.set()
        return result

    monkeypatch.setattr(recorder, moment, cancel_after)
    with pytest.raises(InferenceCancelled), toy.graphs.making():
        toy.run(1)
    monkeypatch.undo()
    toy.cancel.clear()
    assert equal(toy.run(1), toy.plain(1))
    assert (len(toy.graphs), toy.graphs.problem) == (0, '')
    with toy.graphs.making():
        assert equal(toy.run(2), toy.plain(2))
    assert (len(toy.graphs), toy.graphs.problem) == (1, '')


def test_cuda_s_recorder_makes_the_same_of_torch_s_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    toy = recorded(CudaRecorder(torch.device('cuda:1')), 1, 2)
    assert (len(toy.graphs), toy.graphs.problem) == (1, '')
    layers = toy.layers
    results = [toy.run(seed) for seed in range(3)]
    assert toy.layers == layers
    assert all(equal(result, toy.plain(seed)) for seed, result in enumerate(results))
    assert fake.modes == {'thread_local'} and len(fake.pools) == 1
    assert fake.current is fake.usual
    assert fake.usual.waited_for and fake.usual.waited_for[0].waited_for == [fake.usual]


@pytest.mark.parametrize('broken_ends', [1, 2])
def test_a_cuda_graph_that_can_not_be_ended_leaves_the_usual_stream(
    broken_ends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCuda(monkeypatch)
    fake.broken_ends = broken_ends
    toy = recorded(CudaRecorder(torch.device('cuda')), 1, 2)
    assert 'previous error' in toy.graphs.problem
    assert fake.current is fake.usual
    assert equal(toy.run(5), toy.plain(5))


def test_the_host_is_one_piece_ahead_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    backlog = Backlog(torch.device('cuda'))
    for count in range(1, 6):
        backlog.limit()
        assert [event.waited for event in Event.made] == [1] * (count - 1) + [0]
    Backlog(CPU).limit()
    assert len(Event.made) == 5


def test_stages_on_cuda_wait_for_the_last_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    stages = Stages(torch.device('cuda'), ('first', 'second', 'third'))
    for name in ('first', 'second', 'first'):
        with stages(name):
            assert not any(event.waited for event in Event.made)
    stages.finish()
    assert stages.seconds == {'first': 0.002, 'second': 0.001, 'third': 0.0}


def test_a_mask_of_numbers_is_the_mask_of_bool(monkeypatch: pytest.MonkeyPatch) -> None:
    """As attention gets it on CUDA."""
    visible = torch.rand(2, 1, 3, 9, generator=torch.Generator().manual_seed(0)) > 0.3
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(1))
    attend = torch.nn.functional.scaled_dot_product_attention
    as_bool = language._mask(visible, query)
    assert as_bool is visible
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, 'is_cuda', property(lambda self: True))
        numbers = language._mask(visible, query)
    assert numbers.dtype == query.dtype and torch.equal(numbers == 0, visible)
    both = [attend(query[:, :, :3], key, value, mask) for mask in (as_bool, numbers)]
    torch.testing.assert_close(*both, rtol=0, atol=1e-6)


@contextmanager
def recorders(patch: pytest.MonkeyPatch, recorder: TapeRecorder) -> Iterator[None]:
    with patch.context() as patched:
        patched.setattr(policy_module, 'recorder_of', lambda device: recorder)
        yield


@cache
def warm(name: str) -> tuple[OpenVLAPolicy, TapeRecorder]:
    """A policy for two robots with its graphs."""
    recorder = TapeRecorder()
    folder = FAMILY[name].folder() if name in FAMILY else GOLDEN / name
    with recorders(pytest.MonkeyPatch(), recorder):
        one = OpenVLAPolicy.from_pretrained(folder, 'cpu', 'float32', max_batch_size=2)
    times = one.warmup()
    assert not one._graphs.problem
    assert times.graphs == f'{len(one._graphs)} CUDA graphs'
    return one, recorder


def test_graphs_give_the_bits_of_the_policy_without() -> None:
    one, recorder = warm('openvla_tiny')
    before = recorder.repeated
    assert_graphs_change_no_bit(one, golden_batches('openvla_tiny'))
    assert recorder.repeated > before
    for name, case in CASES.values():
        if name == 'openvla_tiny':
            asked = picture(case), case['instruction'], case['unnorm_key']
            assert one.predict_action(*asked).tokens.ids.tolist() == case['new_tokens']


def test_an_inference_with_graphs_runs_no_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = warm('openvla_tiny')
    layers: list[object] = []
    monkeypatch.setattr(one._model, 'before_layer', lambda: layers.append(None))
    case = CASES['openvla_tiny-vga'][1]
    one.reset()
    one.predict_action(picture(case), case['instruction'], case['unnorm_key'])
    assert not layers


def test_the_embeddings_of_a_picture_are_not_overwritten_by_the_next() -> None:
    """Two robots: one sees the same again, the other something new."""
    one, _ = warm('openvla_tiny')
    case = CASES['openvla_tiny-vga'][1]
    first = Request((picture(case),), case['instruction'], case['unnorm_key'])
    others = [replace(first, images=(np.roll(first.images[0], shift),)) for shift in (999, 5000)]
    one.reset()
    expected = predicted(one, [first])
    for other in others:
        both = predicted(one, [first, other])
        assert both[0].tokens is not None and expected[0].tokens is not None
        assert both[0].tokens.ids.tolist() == expected[0].tokens.ids.tolist()
    assert_same_bits(predicted(one, [first]), expected)


def test_numbers_that_are_not_finite_do_not_outlive_their_inference() -> None:
    """The memory of keys and values stays; what a masked position has there must be finite."""
    one, _ = warm('openvla_tiny')
    case = CASES['openvla_tiny-vga'][1]
    arguments = picture(case), case['instruction'], case['unnorm_key']
    expected = one.predict_action(*arguments)
    memory = one._predictor._memory  # type: ignore[attr-defined]
    with torch.inference_mode():
        memory._all.fill_(float('nan'))
    again = one.predict_action(*arguments)
    assert again.invalid is None
    np.testing.assert_array_equal(again.actions, expected.actions)


def test_the_memory_that_graphs_keep_is_counted_before_anything_is_loaded() -> None:
    one, _ = warm('openvla_tiny')
    memory = one._predictor._memory._all  # type: ignore[attr-defined]
    row, kept = robot_bytes(one.config, torch.float32, keeps_patches=False)
    a_step = memory.nbytes // memory.shape[2] // memory.shape[4] * token_batch._CACHE_STEP
    assert 0 <= memory.nbytes // memory.shape[2] - (row - costs._ROW_BYTES) < a_step
    assert kept == 0


def test_a_chunk_s_graphs_give_its_bits() -> None:
    case = FAMILY[PRO_CASE.name]
    one, recorder = warm(PRO_CASE.name)
    before, ours = recorder.repeated, case.predict(one)
    assert recorder.repeated > before
    one.reset()
    with without_graphs(one):
        assert_same_bits([ours], [case.predict(one)])
    error = np.abs(ours.actions - case.array('actions')).max()
    assert error <= case.tolerance


def test_kept_patches_go_through_graphs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = TapeRecorder()
    with recorders(monkeypatch, recorder):
        one = OpenVLAPolicy.from_pretrained(
            GOLDEN / 'openvla_v01_tiny', 'cpu', 'float32', recomputed_patches=0.5
        )
    assert one.warmup().graphs == f'{len(one._graphs)} CUDA graphs'
    case = CASES['openvla_v01_tiny-vga'][1]
    images = [np.roll(picture(case), shift) for shift in (0, 30, 3000)]

    def actions() -> list[Prediction]:
        session = one.session(case['unnorm_key'])
        camera = session.spec.cameras[0]
        asked = [Observation({camera: image}, case['instruction'], {camera: 0}) for image in images]
        answers = [one.predict([(session, each)])[0] for each in asked]
        return [answer for answer in answers if isinstance(answer, Prediction)]

    before = recorder.repeated
    ours = actions()
    assert recorder.repeated > before and len(ours) == len(images)
    one.reset()
    with without_graphs(one):
        before = recorder.repeated
        assert_same_bits(ours, actions())
        assert recorder.repeated == before


def test_out_of_memory_in_the_warm_up_leaves_a_policy_without_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with recorders(monkeypatch, TapeRecorder(OUT_OF_MEMORY, fails_at=4)):
        one = OpenVLAPolicy.from_pretrained(GOLDEN / 'openvla_v01_tiny', 'cpu', 'float32')
    assert one.warmup().graphs == f'no CUDA graphs: {OUT_OF_MEMORY}'
    case = CASES['openvla_v01_tiny-vga'][1]
    prediction = one.predict_action(picture(case), case['instruction'], case['unnorm_key'])
    assert prediction.tokens is not None
    assert prediction.tokens.ids.tolist() == case['new_tokens']


def test_switched_off_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with recorders(monkeypatch, TapeRecorder()):
        one = OpenVLAPolicy.from_pretrained(GOLDEN / 'openvla_tiny', 'cpu', cuda_graphs=False)
    assert not one._graphs.wanted
