# SPDX-License-Identifier: Apache-2.0
"""What the operator sees: the model's own pixels, the state, the action; drawn only if watched."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageColor
from sensor_msgs.msg import Image

from support.fakes import SPEC, a_prediction
from support.graph import PICTURE, Robot, robot, running_node
from vla_ros.clock import ManualClock
from vla_ros.drawing import SKY_BLUE, font, full_scale, number, wrap
from vla_ros.images.raw import image_to_rgb
from vla_ros.motion import ActionContract, load_contracts
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.reasons import State
from vla_ros.ros import operator_view
from vla_ros.ros.operator_view import OperatorViewPublisher
from vla_ros.ros.situation import Situation
from vla_ros.scheduling import Outcome, Result
from vla_ros.types import ActionSpace, Observation, PolicySpec, unknown_names
from vla_ros.view import STATE_COLOURS, OperatorView, render

SIZE = (572, 936, 3)
CONTRACTS = load_contracts()
BRIDGE = CONTRACTS['bridge_orig']
_random = np.random.default_rng(2)


def a_picture(height: int = 224, width: int = 224) -> np.ndarray:
    return _random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def a_spec(dim: int = 7, has_contract: bool = False, **changes: Any) -> PolicySpec:
    """Without names; seven values are a displacement, unless that is left to a contract."""
    space = ActionSpace.POSE_DELTA if dim == 7 and not has_contract else ActionSpace.UNKNOWN
    spec = dataclasses.replace(SPEC, action_dim=dim, action_space=space, names=unknown_names(dim))
    return dataclasses.replace(spec, **changes)


def a_view(
    action: Any = (0.01, -0.02, 0.005, 0.1, 0.0, -0.05, 0.9), **changes: Any
) -> OperatorView:
    """Of a published action.

    :param action: [D], or [K, D].
    :param changes: of the prediction, if it has such a field, otherwise of the view.
    """
    told = ('probabilities', 'unnorm_key', 'tokens', 'model_images')
    prediction = {name: changes.pop(name) for name in told if name in changes}
    picture = changes.pop('picture', None)
    if picture is not None:
        prediction['model_images'] = {'image': picture}
    prediction['actions'] = np.atleast_2d(np.array(action, dtype=np.float64))
    values = {
        'state': State.RUNNING,
        'instruction': 'pick up the cup',
        'prediction': a_prediction(**prediction),
        'spec': a_spec(prediction['actions'].shape[1], 'contract' in changes),
        'published': True,
        'age_s': 0.2,
    }
    return OperatorView(**{**values, **changes})


def has_colour(pixels: np.ndarray, colour: str) -> bool:
    return bool((pixels == ImageColor.getrgb(colour)).all(axis=-1).any())


def changed(one: OperatorView, other: OperatorView) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what differs."""
    rows, columns = np.nonzero((render(one) != render(other)).any(axis=-1))
    assert rows.size, 'they look the same'
    return rows.min(), rows.max(), columns.min(), columns.max()


# -- what is drawn ---------------------------------------------------------------------------------


def shown_picture(pixels: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int]:
    """The part of a view that shows a picture of this size, and how much it is enlarged."""
    factor = 448 // max(height, width)
    left, top = 16 + (448 - width * factor) // 2, 108 + (448 - height * factor) // 2
    return pixels[top : top + height * factor, left : left + width * factor], factor


@pytest.mark.parametrize('size', [(224, 224), (384, 384), (30, 50), (448, 1), (1, 1)])
def test_the_models_pixels_are_seen_unchanged(size: tuple[int, int]) -> None:
    picture = a_picture(*size)
    shown, factor = shown_picture(render(a_view(picture=picture)), *size)
    np.testing.assert_array_equal(shown, picture.repeat(factor, 0).repeat(factor, 1))


def test_of_a_picture_that_is_too_large_every_nth_pixel_is_seen() -> None:
    picture = a_picture(480, 640)
    pixels = render(a_view(picture=picture))
    assert pixels.shape == SIZE
    shown, factor = shown_picture(pixels, 240, 320)
    assert factor == 1
    np.testing.assert_array_equal(shown, picture[::2, ::2])


def test_without_a_picture_there_is_a_plain_panel() -> None:
    nothing, no_picture = render(OperatorView()), render(a_view())
    assert nothing.shape == no_picture.shape == SIZE
    # The same panel, but for the words in its middle.
    panel = (slice(108, 556), slice(16, 464))
    rows, columns = np.nonzero((nothing[panel] != nothing[108, 16]).any(axis=-1))
    assert 200 < rows.min() < rows.max() < 248
    assert 0 < columns.min() < columns.max() < 448
    assert (nothing[panel][:200] == no_picture[panel][:200]).all()


def luminance(colour: str) -> float:
    """As WCAG defines it."""
    parts = [value / 255 for value in ImageColor.getrgb(colour)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_state_has_its_word_and_a_colour_that_it_can_be_read_on() -> None:
    assert sorted(STATE_COLOURS) == sorted(State)
    for state, (colour, ink) in STATE_COLOURS.items():
        pixels = render(a_view(state=state))
        assert tuple(pixels[14, 18]) == ImageColor.getrgb(colour)
        dark, light = sorted((luminance(colour), luminance(ink)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, state
    for one, other in itertools.combinations(list(State)[1:], 2):
        changed(a_view(state=one), a_view(state=other))
    assert (
        len(
            {
                STATE_COLOURS[state]
                for state in (State.RUNNING, State.HOLDING, State.ERROR, State.READY)
            }
        )
        == 4
    )


@pytest.mark.parametrize('dim', [1, 2, 7, 14])
def test_every_value_and_every_probability_is_drawn_in_a_row_of_its_own(dim: int) -> None:
    def view(changed: int, what: str) -> OperatorView:
        action, probabilities = np.full(dim, 0.001), np.full(dim, 0.5, dtype=np.float32)
        if changed < dim:
            (action if what == 'value' else probabilities)[changed] *= 1.5
        return a_view(action, probabilities=probabilities)

    for what in ('value', 'probability'):
        rows = [changed(view(dim, what), view(index, what)) for index in range(dim)]
        assert all(left > 480 for _, _, left, _ in rows)
        if what == 'probability' or dim != 7:  # x and y are one arrow
            spans = sorted((top, bottom) for top, bottom, _, _ in rows)
            assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))


def test_the_arrow_points_along_the_frames_axes() -> None:
    """x up, y to the left."""
    at_rest = a_view([0.0] * 7)
    centre_x, centre_y = 480 + 108, 108 + 146
    for action, side in {
        (0.01, 0, 0): (0, -1),
        (-0.01, 0, 0): (0, 1),
        (0, 0.01, 0): (-1, 0),
        (0, -0.01, 0): (1, 0),
    }.items():
        moving = a_view([*action, 0, 0, 0, 0])
        plot = (slice(centre_y - 106, centre_y + 107), slice(centre_x - 106, centre_x + 107))
        rows, columns = np.nonzero((render(moving) != render(at_rest))[plot].any(axis=-1))
        assert np.sign(round(rows.mean() - 106, -1)) == side[1], action
        assert np.sign(round(columns.mean() - 106, -1)) == side[0], action
        assert 90 < max(np.abs(rows - 106).max(), np.abs(columns - 106).max()) <= 106


def test_an_action_that_is_not_in_force_has_no_colour() -> None:
    assert has_colour(render(a_view()), SKY_BLUE)
    for changes in ({'state': State.HOLDING}, {'published': False}):
        assert not has_colour(render(a_view(**changes)), SKY_BLUE)
    changed(a_view(state=State.HOLDING), a_view(state=State.HOLDING, published=False))


@pytest.mark.parametrize(
    'changes',
    [
        {'robot': 'left'},
        {'message': 'no instruction on /instruction'},
        {'instruction': ''},
        {'age_s': 3.5},
        {'frame': 'gripper'},
        {'contract': BRIDGE},
        {'unnorm_key': 'bridge_orig'},
    ],
)
def test_each_thing_told_is_seen(changes: dict[str, Any]) -> None:
    changed(a_view(), a_view(**changes))


def test_what_the_numbers_mean_is_the_contracts_affair() -> None:
    units = {'metres_per_unit': 0.5, 'radians_per_unit': 0.25}
    gripper = {'gripper_closed': 1.0, 'gripper_open': -1.0}
    other = dataclasses.replace(BRIDGE, **units, **gripper)
    one = a_view([0.01, 0.02, -0.03, 0.1, 0.2, -0.3, 0.75], contract=BRIDGE)
    same = a_view([0.02, 0.04, -0.06, 0.4, 0.8, -1.2, -0.5], contract=other)
    np.testing.assert_array_equal(render(one), render(same))
    for changes in (
        {'contract': None},
        {'contract': dataclasses.replace(BRIDGE, rotation='axis_angle')},
        {'contract': dataclasses.replace(BRIDGE, frame='end_effector')},
    ):
        changed(one, dataclasses.replace(one, **changes))
    # The robot's own name of the frame goes before the contract's.
    named = dataclasses.replace(one, frame='base_link')
    elsewhere = dataclasses.replace(BRIDGE, frame='end_effector')
    np.testing.assert_array_equal(
        render(named), render(dataclasses.replace(named, contract=elsewhere))
    )


def test_a_view_leaves_nothing_behind_for_the_next() -> None:
    views = [a_view(picture=a_picture()), a_view([0.1] * 3, message='x' * 300), OperatorView()]
    first = [render(view) for view in views]
    for view, pixels in zip(reversed(views), reversed(first), strict=True):
        np.testing.assert_array_equal(render(view), pixels)


# -- several cameras, chunks, no tokens ------------------------------------------------------------

PANEL_ROWS, PANEL_COLUMNS = slice(108, 556), slice(16, 464)
TWO = a_spec(cameras=('front', 'wrist'))


def test_two_images_of_the_usual_size_are_seen_unchanged_side_by_side() -> None:
    front, wrist = a_picture(), a_picture()
    panel = render(a_view(spec=TWO, model_images={'wrist': wrist, 'front': front}))[
        PANEL_ROWS, PANEL_COLUMNS
    ]
    top = 20 + (448 - 20 - 224) // 2  # below their names
    np.testing.assert_array_equal(panel[top : top + 224, :224], front)
    np.testing.assert_array_equal(panel[top : top + 224, 224:], wrist)


@pytest.mark.parametrize('count', [2, 3, 4, 5, 16])
@pytest.mark.parametrize('size', [(224, 224), (480, 640), (7, 5), (1, 900)])
def test_every_camera_has_a_tile_of_its_own(count: int, size: tuple[int, int]) -> None:
    names = tuple(f'camera_{number}' for number in range(count))
    images = {name: np.zeros((*size, 3), np.uint8) for name in names}
    view = a_view(spec=a_spec(cameras=names), model_images=images)
    boxes = []
    for name in names:
        white = {**images, name: np.full((*size, 3), 255, np.uint8)}
        boxes.append(changed(view, a_view(spec=view.spec, model_images=white)))
    for one, other in itertools.combinations(boxes, 2):
        assert one[1] < other[0] or other[1] < one[0] or one[3] < other[2] or other[3] < one[2]
    assert all(top >= 108 and bottom < 556 for top, bottom, _, _ in boxes)
    assert all(left >= 16 and right < 464 for _, _, left, right in boxes)


def test_a_missing_camera_is_an_empty_tile_with_its_name() -> None:
    front = a_picture()
    both = a_view(spec=TWO, model_images={'front': front, 'wrist': front})
    one = a_view(spec=TWO, model_images={'front': front})
    top, bottom, left, right = changed(both, one)
    assert left >= 16 + 224 and right < 464 and top >= 108 + 20
    # Its name is drawn in both.
    renamed = a_view(spec=a_spec(cameras=('front', 'arm')), model_images={'front': front})
    top, bottom, left, _ = changed(one, renamed)
    assert left >= 16 + 224 and bottom < 108 + 20
    # An image of a camera that the spec does not have is drawn, too.
    more = a_view(spec=TWO, model_images={'front': front, 'other': front})
    changed(one, more)


def test_the_other_rows_of_a_chunk_are_thin_marks() -> None:
    chunk = np.full((8, 7), 0.005)
    one_row, eight_rows = a_view(chunk[0]), a_view(chunk)
    changed(one_row, eight_rows)  # "1 of 8"
    for column in range(7):
        moved = chunk.copy()
        moved[5, column] = -0.004 if column < 6 else 0.5
        before, after = render(eight_rows), render(a_view(moved))
        differs = (before != after).any(axis=-1)
        assert 1 <= differs.sum() <= 40, column
        # Row 0 keeps its numbers and bars.
        assert not differs[:, 480 + 300 :].any()


def test_the_scale_is_that_of_all_rows() -> None:
    for chunk in (np.full((3, 7), 0.001), np.full((3, 9), 0.001)):
        larger = chunk.copy()
        larger[2] = 3.0
        top, _, _, _ = changed(a_view(chunk), a_view(larger))
        assert 108 + 20 < top < 108 + 45  # the caption with the scale


def test_without_tokens_there_is_no_column_of_probabilities() -> None:
    """Also where the values are not a displacement."""
    for dim in (7, 3):
        view = a_view([0.001] * dim, tokens=None)
        pixels = render(view)
        column = pixels[108 + 22 : 556, 480 + 386 :]
        assert (column == pixels[108 + 22, -1]).all()
        changed(view, a_view([0.001] * dim))


def test_the_names_are_those_of_the_actions_description() -> None:
    joints = tuple(f'joint_{number}' for number in range(7))
    of_joints = a_spec(names=joints, action_space=ActionSpace.JOINT_POSITION)
    by_name = a_view(spec=of_joints)
    arrow = a_view()
    plot = (slice(108 + 42, 108 + 250), slice(480 + 4, 480 + 60))
    assert (render(by_name)[plot] != render(arrow)[plot]).any()
    for index in range(7):
        names = (*joints[:index], 'elbow', *joints[index + 1 :])
        other = dataclasses.replace(of_joints, names=names)
        top, bottom, left, _ = changed(by_name, a_view(spec=other))
        assert bottom - top < 28 and left >= 480 - 4  # a letter's edge
    # Seven values are a displacement only if the policy or the contract says so.
    unknown = a_spec(action_space=ActionSpace.UNKNOWN)
    changed(a_view(spec=unknown), arrow)
    same = a_view(spec=unknown, contract=BRIDGE)
    by_policy = a_view(
        spec=a_spec(names=('x', 'y', 'z', 'roll', 'pitch', 'yaw', 'gripper')), contract=BRIDGE
    )
    np.testing.assert_array_equal(render(same), render(by_policy))


def test_an_action_of_another_length_has_no_names() -> None:
    """As an invalid one may have."""
    named = a_spec(names=tuple('abcdefg'))
    np.testing.assert_array_equal(
        render(a_view([0.1] * 3, spec=named)), render(a_view([0.1] * 3, spec=a_spec()))
    )


def test_long_names_leave_room_for_the_bars() -> None:
    names = tuple(f'a_joint_with_a_very_long_name_{number}' for number in range(3))
    view = a_view([0.01] * 3, spec=a_spec(3, names=names))
    at_rest = dataclasses.replace(view, prediction=a_view([0.0] * 3).prediction)
    pixels = render(view)
    assert has_colour(pixels, SKY_BLUE)
    _, columns = np.nonzero((pixels == ImageColor.getrgb(SKY_BLUE)).all(axis=-1))
    assert columns.max() - columns.min() >= 35  # half of the shortest track
    changed(view, at_rest)


# -- what nobody should write ----------------------------------------------------------------------

TEXTS = [
    '',
    ' ',
    'pick up the cup',
    'x' * 10_000,
    'word ' * 2000,
    'Hebe die grüne Schüssel auf — ½ Δ „…“',
    '把红色的杯子拿起来' * 30,
    'ارفع الكوب الأحمر',
    '🤖🦾' * 50,
    'two\nlines\tand\x00a bell\x07',
    '\ud800 half a pair',
    'e\u0301\u0302' * 100,
    '\u200b\u202e\ufeff',
]
VALUES = [0.0, -0.0, 0.01, -1.0, 12345.678, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324]


@pytest.mark.parametrize('seed', range(4))
def test_nothing_that_can_be_said_keeps_it_from_being_drawn(seed: int) -> None:
    chance = random.Random(seed)
    print(f'seed {seed}')
    for _ in range(60):
        dim = chance.choice([0, 1, 6, 7, 7, 7, 8, 18, 19, 60])
        rows = chance.choice([1, 1, 2, 50])
        count = chance.choice([dim, 0, dim + 2])
        cameras = tuple(dict.fromkeys(chance.choice(TEXTS) for _ in range(chance.choice([1, 4]))))
        view = a_view(
            [[chance.choice(VALUES) for _ in range(dim)] for _ in range(rows)],
            **chance.choice([{}, {'tokens': None}]),
            spec=a_spec(
                chance.choice([dim, 7]),
                cameras=cameras,
                action_space=chance.choice([*ActionSpace]),
            ),
            probabilities=np.array([chance.choice(VALUES) for _ in range(count)]),
            unnorm_key=chance.choice(TEXTS),
            picture=chance.choice(
                [None, a_picture(chance.randint(1, 500), chance.randint(1, 500))]
            ),
            robot=chance.choice(TEXTS),
            state=chance.choice([*State]),
            message=chance.choice(TEXTS),
            instruction=chance.choice(TEXTS),
            frame=chance.choice(TEXTS),
            contract=chance.choice([None, *CONTRACTS.values()]),
            published=chance.choice([True, False]),
            age_s=chance.choice([None, *VALUES]),
        )
        pixels = render(view)
        assert pixels.shape == SIZE and pixels.dtype == np.uint8


@pytest.mark.parametrize('text', TEXTS)
def test_a_text_keeps_to_its_place(text: str) -> None:
    for width, lines in ((300, 2), (40, 5), (20, 1)):
        wrapped = wrap(text, 14, width, lines)
        assert len(wrapped) <= lines
        assert all(font(14).getlength(line) <= max(width, 30) for line in wrapped)
        assert all(line == line.strip() and line.isprintable() for line in wrapped)
    whole = wrap('a few words in two lines', 14, 120, 2)
    assert len(whole) == 2 and ' '.join(whole) == 'a few words in two lines'
    assert wrap('x' * 1000, 14, 120, 2)[-1].endswith('…')


def test_scales_are_round_and_hold_every_value() -> None:
    for value in (1e-9, 0.0099, 0.01, 0.011, 0.03, 0.07, 1.0, 4.0, 999.0, 1e300):
        scale = full_scale([-value, math.nan, math.inf], 0.01)
        assert value <= scale <= max(0.01, 5.01 * value)
        assert f'{scale:e}'[0] in '125'
    assert full_scale([], 0.01) == full_scale([math.nan], 0.01) == 0.01
    assert all(len(number(value)) <= 12 for value in VALUES)


# -- who it is drawn for ---------------------------------------------------------------------------


@pytest.fixture
def stack() -> Iterator[Robot]:
    with robot('/operator') as stack:
        yield stack


class Source:
    """Tells a publisher what there is to show; counts how often it is asked, and what is drawn."""

    def __init__(self, stack: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.asked = Situation(State.HOLDING, message='no picture'), 0
        self.drawn: list[OperatorView] = []
        self.clock = ManualClock()
        self.publisher = OperatorViewPublisher(
            stack, self.clock, 'left', '', self.state, lambda: 'go'
        )

        def draw(view: OperatorView) -> np.ndarray:
            self.drawn.append(view)
            return render(view)

        monkeypatch.setattr(operator_view, 'render', draw)

    def state(self) -> Situation:
        self.asked += 1
        return self.now

    def predict(self, published: bool = True, contract: ActionContract | None = None) -> None:
        observation = Observation.of_one(PICTURE, 'go', self.clock.now_ns())
        result = Result(observation, Outcome.PREDICTED, a_prediction())
        self.publisher.keep(result, published, TWO, contract)


def test_nothing_is_asked_or_drawn_while_nobody_looks(
    stack: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(stack, monkeypatch)
    for _ in range(20):
        source.predict()
        assert not source.publisher.show_if_due()
        source.clock.advance(1.0)
    assert source.asked == 0 and source.drawn == []

    views: list[Image] = []
    subscription = stack.create_subscription(Image, 'debug_image', views.append, 1)

    def is_seen() -> bool:
        source.publisher.show_if_due()
        return bool(views)

    stack.wait_for(is_seen)
    assert len(source.drawn) == 1  # nothing else has changed
    assert (source.drawn[0].robot, source.drawn[0].instruction) == ('left', 'go')
    stack.destroy_subscription(subscription)

    def is_alone() -> bool:
        drawn = len(source.drawn)
        source.clock.advance(1.0)
        source.publisher.show_if_due()
        return len(source.drawn) == drawn

    stack.wait_for(is_alone)


def test_what_changes_is_drawn_at_most_ten_times_a_second(
    stack: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(stack, monkeypatch)
    stack.create_subscription(Image, 'debug_image', lambda message: None, 1)
    stack.wait_for(lambda: stack.count_subscribers(f'{stack.get_namespace()}/debug_image') == 1)

    def is_drawn() -> bool:
        source.publisher.show_if_due()
        return bool(source.drawn)

    stack.wait_for(is_drawn)
    for index in range(100):  # for a second, a hundred changes
        source.now = Situation(State.HOLDING, message=f'why {index}')
        source.clock.advance(0.01)
        source.publisher.show_if_due()
    assert 10 <= len(source.drawn) <= 11

    source.drawn.clear()
    source.predict(published=False)
    source.clock.advance(0.25)
    for _ in range(3):
        source.publisher.show_if_due()
        source.clock.advance(0.25)
    [view] = source.drawn
    assert view.prediction is not None and not view.published
    assert view.age_s == 0.25
    assert view.contract is None and view.frame == ''

    source.clock.advance(0.25)
    assert source.publisher.show_if_due()  # the same again, older
    assert source.drawn[-1].age_s == 1.25
    # Another policy: what the one before said is forgotten.
    source.publisher.clear('gripper')
    source.clock.advance(0.25)
    source.publisher.show_if_due()
    assert source.drawn[-1].prediction is None and source.drawn[-1].age_s is None
    assert source.drawn[-1].frame == 'gripper'
    source.predict(contract=BRIDGE)
    source.clock.advance(0.25)
    source.publisher.show_if_due()
    assert source.drawn[-1].published and source.drawn[-1].contract is BRIDGE
    assert source.drawn[-1].spec is TWO


def badge(message: Image) -> tuple[int, ...]:
    return tuple(image_to_rgb(message)[14, 18].tolist())


def test_the_node_shows_what_its_model_saw(tiny_checkpoint: Path) -> None:
    limits = ('inference_timeout_s:=20.0', 'max_action_age_s:=20.0', 'max_image_age_s:=5.0')
    still = ('frozen_image_timeout_s:=0.0', 'image_timeout_s:=3600.0')
    model = (f'model:={tiny_checkpoint}', 'device:=cpu', 'dtype:=float32')
    with running_node(*model, *limits, *still) as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING)
        stack.wait_until_heard()
        views: list[Image] = []
        stack.create_subscription(Image, 'debug_image', views.append, 1)
        orange = ImageColor.getrgb(STATE_COLOURS[State.HOLDING][0])
        stack.wait_for(lambda: bool(views) and badge(views[-1]) == orange)
        assert (views[-1].height, views[-1].width, 3) == SIZE
        assert (views[-1].encoding, views[-1].header.frame_id) == ('rgb8', '')

        stack.say('Pick up the red cup')
        stack.wait_for_state(State.HOLDING, '/image')
        stack.see()
        stack.wait_for_state(State.RUNNING)
        green = ImageColor.getrgb(STATE_COLOURS[State.RUNNING][0])
        stack.wait_for(lambda: badge(views[-1]) == green)
        policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='float32')
        picture = policy.predict_action(PICTURE, 'Pick up the red cup').model_images['image']
        shown, factor = shown_picture(image_to_rgb(views[-1]), *picture.shape[:2])
        np.testing.assert_array_equal(shown[::factor, ::factor], picture)

        now_ns = stack.get_clock().now().nanoseconds
        stamp = views[-1].header.stamp
        assert 0 <= now_ns - (stamp.sec * 10**9 + stamp.nanosec) < 5e9
        count = len(views)
        stack.wait_for(lambda: len(views) >= count + 2, timeout_s=5.0)  # it grows older
        stack.say('')
        stack.wait_for(lambda: badge(views[-1]) == orange)
    assert running.process.returncode == 0
