# SPDX-License-Identifier: Apache-2.0
"""What episodes add up to, and how they are shown; without ROS, a simulator or a display."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageSequence

from vla_ros.drawing import GREEN, SKY_BLUE, VERMILLION
from vla_ros.evaluation.episode import Episode
from vla_ros.evaluation.film import Film
from vla_ros.evaluation.plot import plot_success
from vla_ros.evaluation.report import report_text, tables, versions
from vla_ros.evaluation.summary import (
    Condition,
    Outcome,
    paired_interval,
    summarize,
    wilson_interval,
)
from vla_ros.evaluation.window import Window, open_window
from vla_ros.measure.agreement import agreement
from vla_ros.motion import load_contracts
from vla_ros.policy_request import PolicyRequest

RED, BLUE = 'pick up the red block', 'pick up the blue block'
BLOCKS = PolicyRequest('models/blocks', device='cpu', dtype='float32')
STEP = Condition(BLOCKS)
MACHINE = {
    **{'cpu': 'a CPU', 'cores': 2, 'cpu_flags': ['avx2'], 'memory_gb': 8, 'gpus': []},
    **{'system': 'Linux', 'python': '3.11', 'torch': '2.14'},
}


def free(added_latency_s: float, deltas_from: str = 'now') -> Condition:
    return Condition(BLOCKS, 'free', added_latency_s, 'none', deltas_from)


def episode(
    success: bool, instruction: str = RED, steps: int = 10, latency_s: float = 0.1
) -> Episode:
    return Episode(
        *(7, instruction, instruction, success, steps, 0.2 * steps, (latency_s,) * steps),
        unanswered=1,
    )


def outcome(condition: Condition, successes: int, episodes: int = 10) -> Outcome:
    return Outcome(condition, [episode(number < successes) for number in range(episodes)])


# -- summary ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('successes', 'episodes', 'low', 'high'),
    [  # as of scipy's binomtest(...).proportion_ci(method='wilson')
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (8, 10, 0.4902, 0.9433),
        (95, 100, 0.8882, 0.9785),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_interval(successes: int, episodes: int, low: float, high: float) -> None:
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_never_leaves_what_a_rate_can_be_and_holds_the_rate() -> None:
    for episodes in range(1, 60):
        for successes in range(episodes + 1):
            low, high = wilson_interval(successes, episodes)
            assert 0 <= low <= high <= 1
            assert low - 1e-12 <= successes / episodes <= high + 1e-12


def test_policies_are_compared_by_their_pairs_of_starts() -> None:
    # By the formulas of Agresti and Min 2005, for 300 pairs: 5 and 2 that differ.
    assert paired_interval(2, 5, 300) == pytest.approx((-0.028256, 0.008388), abs=1e-6)
    assert paired_interval(0, 0, 1)[0] < 0 < paired_interval(0, 0, 1)[1]
    int8 = Condition(replace(BLOCKS, quantization='int8'))
    late = [Outcome(free(0.5), [episode(True)] * 4), Outcome(free(1.0), [episode(False)] * 4)]
    first, second = outcome(STEP, 8), outcome(int8, 7)
    summaries = summarize([first, *late, second])
    assert [one['difference'] for one in summaries[:3]] == [None] * 3
    assert summaries[3]['difference']['rate'] == pytest.approx(-0.1)
    assert summaries[3]['difference']['interval'] == paired_interval(0, 1, 10)
    assert '-10.0 (-' in tables(summaries)


def test_episodes_are_summed_up_by_instruction_and_together() -> None:
    episodes = [
        episode(True, RED, steps=8),
        episode(True, RED, steps=11),
        episode(False, RED, steps=40),
        episode(False, BLUE, steps=40, latency_s=0.3),
    ]
    [summary] = summarize([Outcome(STEP, episodes, drafted=8, accepted=6)])
    assert summary['all'] == {
        'episodes': 4,
        'successes': 2,
        'success_rate': 0.5,
        'interval': wilson_interval(2, 4),
        'mean_steps': 9.5,
    }
    by_instruction = summary['instructions']
    assert list(by_instruction) == [RED, BLUE]
    assert by_instruction[RED]['success_rate'] == pytest.approx(2 / 3)
    assert by_instruction[BLUE]['mean_steps'] is None
    assert summary['latency_s']['p50'] == 0.1 and summary['latency_s']['p95'] == 0.3
    assert summary['unanswered'] == 4
    assert summary['acceptance'] == 0.75
    assert [one['success'] for one in summary['episodes']] == [True, True, False, False]
    assert json.loads(json.dumps(summary))['pace'] == 'step'


def test_what_did_not_happen_has_no_number() -> None:
    [summary] = summarize([Outcome(STEP, [episode(False, steps=0)])])
    assert summary['latency_s'] is summary['acceptance'] is summary['agreement'] is None
    lines = [line.split() for line in tables([summary]).splitlines()]
    assert lines[1][-1] == lines[2][-1] == '-'
    assert lines[-1][-8:] == ['-', '-', '-', '1', '0', '-', '-', '-']


def test_every_condition_has_a_name_of_its_own() -> None:
    assert str(STEP) == 'blocks cpu float32, in step'
    assert str(free(0.2, 'image')) == (
        'blocks cpu float32, free-running, +200 ms, deltas from the image'
    )
    policy = PolicyRequest('a/b', '', 'cuda:0', 'bfloat16', 'int8')
    black = Condition(policy, control='black')
    assert str(black) == 'b cuda:0 bfloat16 int8, in step, black image'
    kept = Condition(PolicyRequest('a', device='cpu', dtype='float32', recomputed_patches=0.5))
    assert str(kept) == 'a cpu float32 50% of the patches, in step'


def test_the_json_of_a_condition_is_flat() -> None:
    condition = free(0.2, 'image')
    assert condition.as_json() == {
        **{'model': 'models/blocks', 'device': 'cpu', 'dtype': 'float32', 'quantization': 'none'},
        **{'pace': 'free', 'added_latency_s': 0.2, 'control': 'none', 'deltas_from': 'image'},
        **{'motion': 'action', 'recomputed_patches': 1.0},
    }
    assert Condition.from_json({'name': 'more', **condition.as_json()}) == condition


# -- agreement -------------------------------------------------------------------------------------


def test_agreement_by_dimension() -> None:
    first = np.array([[100, 150, 7], [100, 151, 8], [102, 150, 9], [103, 150, 10]])
    second = np.array([[100, 150, 7], [100, 150, 8], [102, 190, 9], [100, 150, 10]])
    assert agreement(first, second) == {
        'images': 4,
        'equal_actions': 1,
        'equal_bins': 9 / 12,
        'largest_bin_distance': 40,
        'dimensions': [
            {'equal_bins': 0.75, 'largest_bin_distance': 3},
            {'equal_bins': 0.5, 'largest_bin_distance': 40},
            {'equal_bins': 1.0, 'largest_bin_distance': 0},
        ],
    }
    assert agreement(first, first)['equal_bins'] == 1
    with pytest.raises(ValueError, match=r'shapes \(4, 3\) and \(3, 3\)'):
        agreement(first, second[:3])


# -- report and plot -------------------------------------------------------------------------------


def test_the_report_shows_rates_intervals_latency_drafts_and_bins() -> None:
    same = agreement(np.array([[1, 2]]), np.array([[1, 5]]))
    episodes = [episode(number < 95) for number in range(100)]
    outcomes = [Outcome(STEP, episodes, 10, 4, same), outcome(free(0.5), 0)]
    text = report_text(
        {
            **{'command': 'vla_eval --episodes 50', 'date': '2030-01-01', 'machine': MACHINE},
            **{'versions': {'mujoco': '3.3.7'}, 'world': 'blocks', 'seeds': [5, 54]},
            **{'model': 'models/blocks', 'conditions': summarize(outcomes)},
        }
    )
    lines = text.splitlines()
    assert lines[0] == 'vla_eval --episodes 50'
    assert 'mujoco 3.3.7' in lines and 'world blocks, seeds 5 to 54, models/blocks' in lines
    whole, red = [line.split() for line in lines if '95.0%' in line]
    assert whole[-7:] == ['100', '95', '95.0%', '88.8', 'to', '97.8%', '10.0']
    assert red == [*RED.split(), *whole[-7:]]
    [rest] = [line.split() for line in lines if '40%' in line]
    assert rest[-11:-4] == ['100.0', 'ms', '100.0', 'ms', '100.0', 'ms', '100']
    assert rest[-4:] == ['0', '40%', '50.0%', '3']


def test_versions_are_of_what_is_installed() -> None:
    found = versions()
    assert found['numpy'] == np.__version__


def test_success_over_latency_is_a_line_for_each_way_to_move(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    outcomes = [
        *(outcome(free(latency_s), successes) for latency_s, successes in ((0.5, 4), (0.0, 9))),
        *(outcome(free(latency_s, 'image'), 8) for latency_s in (0.0, 0.5)),
        outcome(STEP, 10),
    ]
    plot_success(summarize(outcomes), tmp_path / 'one.png')
    plot_success(summarize(outcomes), tmp_path / 'two.png')
    assert (tmp_path / 'one.png').read_bytes() == (tmp_path / 'two.png').read_bytes()
    bars, curves = drawn[0].axes
    assert [bar.get_width() for bar in bars.patches] == [40, 90, 80, 80, 100]
    handles, names = curves.get_legend_handles_labels()
    assert names == [
        'blocks cpu float32, free-running',
        'blocks cpu float32, free-running, deltas from the image',
    ]
    assert handles[0].lines[0].get_xydata().tolist() == [[0, 90], [500, 40]]


def test_without_several_latencies_there_are_bars_only(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_success(summarize([outcome(STEP, 0), outcome(free(0.2), 10)]), tmp_path / 'plot.png')
    assert len(drawn[0].axes) == 1


# -- film ------------------------------------------------------------------------------------------

CONTRACT = load_contracts()['vla_ros_blocks']
STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
MIDDLE = 46 + 336 + 23  # of a frame's footer, y


def picture(level: int) -> NDArray[np.uint8]:
    return np.full((224, 224, 3), level, np.uint8)


def rgb(colour: str) -> tuple[int, ...]:
    return ImageColor.getrgb(colour)


def filmed(*successes: bool) -> Film:
    """Two actions in each episode."""
    film = Film(CONTRACT)
    for number, success in enumerate(successes):
        film.begin((RED, BLUE)[number % 2])
        for step in range(2):
            film.add(picture(60 + 40 * step), STILL)
        film.add(picture(140))
        film.end(success)
    return film


def test_a_gif_shows_every_picture_and_pauses_at_the_ends(tmp_path: Path) -> None:
    film = filmed(True, False)
    film.begin(RED)  # was interrupted
    film.add(picture(0), STILL)
    film.write_gif(tmp_path / 'film.gif')
    filmed(True, False).write_gif(tmp_path / 'again.gif')
    assert (tmp_path / 'film.gif').read_bytes() == (tmp_path / 'again.gif').read_bytes()
    with Image.open(tmp_path / 'film.gif') as gif:
        assert gif.info['loop'] == 0
        durations_ms, frames = [], []
        for frame in ImageSequence.Iterator(gif):
            durations_ms.append(frame.info['duration'])
            frames.append(np.asarray(frame.convert('RGB'), np.int16))
    assert durations_ms == [160, 160, 1000] * 2
    assert [frame.shape for frame in frames] == [(428, 336, 3)] * 6
    for frame, level in zip(frames, [60, 100, 140] * 2, strict=True):
        assert abs(frame[200, 150] - level).max() <= 4
    assert abs(frames[2][100, 2] - rgb(GREEN)).max() <= 8
    assert abs(frames[5][100, 2] - rgb(VERMILLION)).max() <= 8


def test_the_last_frame_follows_what_happens() -> None:
    film = Film(CONTRACT, most=0)  # for a window only
    film.begin(RED)
    film.add(picture(60), np.array([0.05, -0.05, 0.0, 0.0, 0.0, 0.0, 0.0]))
    shown = film.last_frame
    x_bar, y_bar = 35, 77
    assert shown.shape == (428, 336, 3) and shown.dtype == np.uint8
    for column, up, down in ((x_bar, True, False), (y_bar, False, True)):
        assert (tuple(shown[MIDDLE - 12, column]) == rgb(SKY_BLUE)) == up
        assert (tuple(shown[MIDDLE + 12, column]) == rgb(SKY_BLUE)) == down
    film.add(picture(90))
    assert tuple(film.last_frame[100, 2]) == (90, 90, 90)
    film.end(True)
    assert tuple(film.last_frame[100, 2]) == rgb(GREEN)


def test_a_film_keeps_what_it_was_shown() -> None:
    film, image = Film(CONTRACT), picture(60)
    film.begin(RED)
    film.add(image)
    image[:] = 0
    assert tuple(film.last_frame[200, 150]) == (60, 60, 60)


def test_pictures_of_any_shape_are_shown_whole() -> None:
    film = Film(CONTRACT)
    film.begin('put the black bowl into the bottom drawer of the cabinet, and close it ' * 3)
    film.add(np.full((100, 200, 3), 250, np.uint8), STILL)
    shown = film.last_frame
    bright = np.argwhere((shown == 250).all(axis=-1))
    assert bright.min(axis=0).tolist() == [46 + 84, 0]
    assert bright.max(axis=0).tolist() == [46 + 84 + 167, 335]


def test_a_contact_sheet_has_a_row_for_each_episode(tmp_path: Path) -> None:
    film = filmed(True, False)
    film.begin(RED)
    for level in range(100, 120):
        film.add(picture(level), STILL)
    film.end(False)
    film.write_contact_sheet(tmp_path / 'sheet.png')
    with Image.open(tmp_path / 'sheet.png') as image:
        sheet = np.asarray(image)
    assert sheet.shape == (8 + 3 * 158, 190 + 6 * 158, 3)
    shown = [sheet[8 + 2 * 158 + 75, 190 + 158 * column + 75, 0] for column in range(6)]
    assert shown == [100, 104, 108, 111, 115, 119]
    last = 190 + 2 * 158 + 2
    assert [tuple(sheet[row, last]) for row in (75, 158 + 75)] == [rgb(GREEN), rgb(VERMILLION)]


# -- window ----------------------------------------------------------------------------------------


class FakeTkinter(ModuleType):
    """Knows what the window asks of it; a person may close the window."""

    class TclError(Exception):
        pass

    def __init__(self, has_display: bool = True) -> None:
        super().__init__('tkinter')
        self.shown: list[bytes] = []
        self.destroyed = 0
        self.closed_by_person = False
        self._has_display = has_display

    def Tk(self) -> SimpleNamespace:
        if not self._has_display:
            raise self.TclError('no display name and no $DISPLAY environment variable')
        return SimpleNamespace(
            title=lambda text: None,
            resizable=lambda width, height: None,
            protocol=self._on_close,
            update=self._update,
            destroy=self._destroy,
        )

    def Label(self, root: Any, borderwidth: int) -> SimpleNamespace:
        return SimpleNamespace(
            pack=lambda: None, configure=lambda image: self.shown.append(image.pixels)
        )

    def PhotoImage(self, data: bytes, format: str) -> SimpleNamespace:
        if self.destroyed:
            raise self.TclError('application has been destroyed')
        return SimpleNamespace(pixels=data)

    def _on_close(self, name: str, closed: Any) -> None:
        assert name == 'WM_DELETE_WINDOW'
        self._closed = closed

    def _update(self) -> None:
        if self.closed_by_person:
            self._closed()

    def _destroy(self) -> None:
        if self.destroyed:
            raise self.TclError('application has been destroyed')
        self.destroyed += 1


@pytest.fixture
def tkinter(monkeypatch: pytest.MonkeyPatch) -> FakeTkinter:
    fake = FakeTkinter()
    monkeypatch.setitem(sys.modules, 'tkinter', fake)
    return fake


def opened() -> Window:
    window = open_window('demo')
    assert window is not None
    return window


def test_a_window_shows_pictures_until_it_is_closed(tkinter: FakeTkinter) -> None:
    window, image = opened(), np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    window.show(image)
    assert tkinter.shown == [b'P6 3 2 255\n' + bytes(range(18))]
    window.close()
    window.close()
    window.show(image)
    assert tkinter.destroyed == 1 and len(tkinter.shown) == 1


def test_a_person_may_close_the_window(tkinter: FakeTkinter) -> None:
    window = opened()
    tkinter.closed_by_person = True
    for _ in range(3):
        window.show(picture(0))
    window.close()
    assert tkinter.destroyed == 1 and len(tkinter.shown) == 1


def test_a_window_that_has_gone_ends_no_run(tkinter: FakeTkinter) -> None:
    window = opened()
    tkinter.destroyed = 1
    window.show(picture(0))
    window.show(picture(0))
    assert not tkinter.shown


def test_no_display_and_no_tkinter_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'tkinter', FakeTkinter(has_display=False))
    assert open_window('demo') is None
    assert 'no window: no display name' in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, 'tkinter', None)
    assert open_window('demo') is None
    assert 'python3-tk' in capsys.readouterr().out
