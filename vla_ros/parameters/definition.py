# SPDX-License-Identifier: Apache-2.0
"""Definition of every parameter: default, unit, bounds, choices and sentence.

The node, the doctor and the launch file read it; ``generate.py`` writes config/vla.yaml and
docs/parameters.md from it. A new parameter is one new field of :class:`Parameters`.

Standard library only: the launch file imports this module in an interpreter that may have neither
NumPy nor torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

Group = Literal[
    'Policy', 'Robots', 'Instructions', 'Images', 'Actions', 'Motion', 'Recording', 'Process'
]


# Of the commands, by the value of the parameter motion.
MOTION_TOPICS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        'twist': ('twist',),
        'pose': ('target_pose',),
        'joint_trajectory': ('joint_trajectory',),
        'forward': ('joint_commands',),
    }
)
JOINT_MOTIONS = ('joint_trajectory', 'forward')

NO_ROBOTS = ('',)  # the parameter robots, as ROS has it: it knows no empty list of texts


class Settable(Enum):
    """When a parameter can be set; the value is the word for it in docs/parameters.md."""

    AT_START = 'at start'
    UNCONFIGURED = 'unconfigured'
    ALWAYS = 'always'


@dataclass(frozen=True)
class Definition:
    """One parameter.

    :param default: its type is the parameter's type: bool, int, float, str or tuple (of str).
    :param sentence: quantity and condition, one sentence without the unit.
    :param bounds: lowest and highest allowed value.
    :param choices: allowed values; empty: any.
    """

    name: str
    default: Any
    sentence: str
    group: Group
    unit: str
    bounds: tuple[float, float] | None
    choices: tuple[str, ...]
    settable: Settable

    @property
    def kind(self) -> type:
        """Return the type of the value: bool, int, float, str or tuple."""
        return type(self.default)

    @property
    def description(self) -> str:
        """Return the sentence with the unit after the quantity, which ends at a semicolon if any.

        For example 'Maximum time without a new image [s]; then the robot holds.'
        """
        if not self.unit:
            return self.sentence
        quantity, semicolon, rest = self.sentence.removesuffix('.').partition(';')
        return f'{quantity} [{self.unit}]{semicolon}{rest}.'

    @property
    def allowed(self) -> str:
        """Return the choices or the bounds; empty if there are none."""
        if self.bounds:
            return f'{self.bounds[0]:g} to {self.bounds[1]:g}'
        return ', '.join(self.choices)

    @property
    def help(self) -> str:
        """Return the description, followed by what is allowed."""
        return f'{self.description} Allowed: {self.allowed}.' if self.allowed else self.description


def parameter(
    default: Any,
    sentence: str,
    *,
    group: Group,
    unit: str = '',
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    settable: Settable = Settable.UNCONFIGURED,
) -> Any:
    """Return a dataclass field with the rest of its :class:`Definition` as metadata."""
    metadata = dict(
        sentence=sentence,
        group=group,
        unit=unit,
        bounds=bounds,
        choices=choices,
        settable=settable,
    )
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """The values of one configuration. The fields of a group stand together."""

    model: str = parameter(
        '',
        'Checkpoint folder, hub id such as openvla/openvla-7b (HF_HOME, HF_TOKEN and '
        'HF_HUB_OFFLINE apply), script such as scripted:seed=7, or server such as '
        'ws://host:8000 (docs/serving.md).',
        group='Policy',
    )
    revision: str = parameter(
        '', 'Branch, tag or commit of a hub id; empty: its main branch.', group='Policy'
    )
    device: str = parameter(
        'auto',
        'Device of the policy: auto (cuda, then mps, then cpu), cuda, cuda:N, mps or cpu.',
        group='Policy',
    )
    dtype: str = parameter(
        'auto',
        'Data type of the weights: auto (bfloat16 where the device is fast at it), float32, '
        'bfloat16 or float16.',
        group='Policy',
    )
    quantization: str = parameter(
        'none',
        'Quantization of the weights; int8 and int4 need less memory and are not exact, int8 is '
        'faster on a CPU.',
        group='Policy',
        choices=('none', 'int8', 'int4'),
    )
    compile: bool = parameter(
        False, 'Whether to compile the model with torch.compile during warm-up.', group='Policy'
    )
    cuda_graphs: bool = parameter(
        True,
        'Whether the warm-up makes CUDA graphs, which give the same actions sooner; without effect '
        'on other devices.',
        group='Policy',
    )
    recomputed_patches: float = parameter(
        1.0,
        "Share of an image's patches that an inference recomputes, those that changed most; below "
        '1 the others are kept from the last inference, which is faster and inexact '
        '(docs/design/speed.md).',
        group='Policy',
        bounds=(0.1, 1.0),
    )
    unnorm_key: str = parameter(
        '',
        'Data set whose statistics scale the actions; empty: the only one in the checkpoint.',
        group='Policy',
    )
    remote_token_file: str = parameter(
        '', "File with the token of the model's server; empty: none.", group='Policy'
    )
    remote_ca_file: str = parameter(
        '',
        "PEM file with the authorities that may sign the certificate of the model's server; empty: "
        'those of the system.',
        group='Policy',
    )
    remote_image: str = parameter(
        'raw',
        "Encoding of images that are sent to the model's server; raw and png keep every value, "
        'jpeg changes actions.',
        group='Policy',
        choices=('raw', 'png', 'jpeg'),
    )
    load_timeout_s: float = parameter(
        900.0,
        'Maximum duration of loading, including the download or the wait for a server.',
        group='Policy',
        unit='s',
        bounds=(1.0, 86400.0),
        settable=Settable.ALWAYS,
    )
    warmup_timeout_s: float = parameter(
        900.0,
        'Maximum duration of the warm-up, including the self-check.',
        group='Policy',
        unit='s',
        bounds=(1.0, 86400.0),
        settable=Settable.ALWAYS,
    )

    robots: tuple[str, ...] = parameter(
        (),
        'Names of the robots, each with topics of its own (NAME/image, NAME/action); empty: one '
        'robot, with the topics image and action.',
        group='Robots',
        settable=Settable.AT_START,
    )
    enabled: bool = parameter(
        True,
        'Whether robots may act before the service ~/enable is called.',
        group='Robots',
        settable=Settable.AT_START,
    )
    latch_file: str = parameter(
        '',
        "File that keeps the operator's stop, disable and hold when the process ends; empty: a "
        "file in ROS_HOME for this node's name and ROS domain.",
        group='Robots',
        settable=Settable.AT_START,
    )

    instruction: str = parameter(
        '',
        'Instruction of every robot until its instruction topic gives another; empty: hold.',
        group='Instructions',
        settable=Settable.ALWAYS,
    )
    max_command_age_s: float = parameter(
        2.0,
        'Maximum age of a command that starts a robot (instruction, enable, reset, activate).',
        group='Instructions',
        unit='s',
        bounds=(0.1, 3600.0),
        settable=Settable.ALWAYS,
    )
    max_instruction_age_s: float = parameter(
        0.0,
        'Maximum age of an instruction that is not repeated; then it is withdrawn; 0: no limit.',
        group='Instructions',
        unit='s',
        bounds=(0.0, 86400.0),
        settable=Settable.ALWAYS,
    )
    no_instruction_timeout_s: float = parameter(
        30.0,
        'Maximum time with images but without an instruction; then the message of the status names '
        'both topics.',
        group='Instructions',
        unit='s',
        bounds=(0.01, 86400.0),
        settable=Settable.ALWAYS,
    )

    image_transport: str = parameter(
        'raw',
        'Type of the image topic: raw (topic image) or compressed (topic image/compressed).',
        group='Images',
        choices=('raw', 'compressed'),
        settable=Settable.ALWAYS,
    )
    image_reliability: str = parameter(
        'auto',
        'Reliability of the image subscription; auto: what the publishers offer.',
        group='Images',
        choices=('auto', 'reliable', 'best_effort'),
        settable=Settable.ALWAYS,
    )
    preprocessing: str = parameter(
        'raw',
        "Image preprocessing; raw: none; training: as in OpenVLA's training, with the crop if the "
        'contract of unnorm_key has it.',
        group='Images',
        choices=('raw', 'training'),
    )
    rotate_180: bool = parameter(
        False,
        'Whether to rotate images by 180 degrees first, as LIBERO does with its own.',
        group='Images',
    )
    max_image_age_s: float = parameter(
        0.5,
        'Maximum age of an image when inference starts.',
        group='Images',
        unit='s',
        bounds=(0.001, 3600.0),
        settable=Settable.ALWAYS,
    )
    first_image_timeout_s: float = parameter(
        10.0,
        'Maximum time from activation to the first image; then the reason is NO_FIRST_IMAGE.',
        group='Images',
        unit='s',
        bounds=(0.01, 3600.0),
        settable=Settable.ALWAYS,
    )
    image_timeout_s: float = parameter(
        2.0,
        'Maximum time without a new image; then the robot holds.',
        group='Images',
        unit='s',
        bounds=(0.01, 3600.0),
        settable=Settable.ALWAYS,
    )
    sync_tolerance_s: float = parameter(
        0.05,
        'Maximum time between the captures of the images and the state of one observation.',
        group='Images',
        unit='s',
        bounds=(0.0, 60.0),
        settable=Settable.ALWAYS,
    )
    state_from: str = parameter(
        'auto',
        'Source of the state; topic: the topic state has the whole vector; contract: joint_states '
        'and ee_pose, as the contract of the data set lists; auto: contract, if it lists a state.',
        group='Images',
        choices=('auto', 'topic', 'contract'),
        settable=Settable.ALWAYS,
    )
    state_timeout_s: float = parameter(
        2.0,
        'Maximum time in which no state fits the images; then the robot holds.',
        group='Images',
        unit='s',
        bounds=(0.01, 3600.0),
        settable=Settable.ALWAYS,
    )
    frozen_image_timeout_s: float = parameter(
        5.0,
        'Maximum time in which every image repeats an earlier one; then the robot holds; 0: still '
        'images are allowed.',
        group='Images',
        unit='s',
        bounds=(0.0, 3600.0),
        settable=Settable.ALWAYS,
    )

    inference_timeout_s: float = parameter(
        1.0,
        'Maximum duration of an inference; then it is cancelled and its robots hold.',
        group='Actions',
        unit='s',
        bounds=(0.01, 3600.0),
        settable=Settable.ALWAYS,
    )
    max_action_age_s: float = parameter(
        1.5,
        "Maximum age of an action's image when the action is published.",
        group='Actions',
        unit='s',
        bounds=(0.01, 3600.0),
        settable=Settable.ALWAYS,
    )
    frame_id: str = parameter(
        '',
        'Frame of the actions, written into their header; with several robots one for all, or one '
        'for each, separated by commas.',
        group='Actions',
        settable=Settable.ALWAYS,
    )
    contracts: str = parameter(
        '',
        'YAML file with the action contracts of further data sets (docs/contracts.md).',
        group='Actions',
        settable=Settable.ALWAYS,
    )

    motion: str = parameter(
        'none',
        'Motion output; twist: also publish velocities on the topic twist; pose: also publish '
        'targets on the topic target_pose; both publish gripper, and need frame_id; '
        'joint_trajectory, forward: also publish joint_trajectory or joint_commands, and grippers, '
        'for policies of joint positions.',
        group='Motion',
        choices=('none', 'twist', 'pose', 'joint_trajectory', 'forward'),
    )
    contract_frame: str = parameter(
        '',
        "Robot's frame with the axes of the contract's frame, looked up in tf2; the pose in the "
        'state is told in it; with several robots as frame_id; empty: frame_id has these axes, but '
        'for frame_rotation_rpy.',
        group='Motion',
        settable=Settable.ALWAYS,
    )
    frame_rotation_rpy: str = parameter(
        '',
        "Rotation of the contract's frame against frame_id: roll, pitch, yaw; with several robots "
        'one for all, or one for each, separated by semicolons; empty: none.',
        group='Motion',
        unit='rad',
        settable=Settable.ALWAYS,
    )
    tool_frame: str = parameter(
        '',
        "Robot's frame of the tool, whose pose in frame_id is looked up in tf2 in place of the "
        'topic ee_pose; with several robots as frame_id; empty: the topic.',
        group='Motion',
    )
    chunk_timing: str = parameter(
        'published',
        'When the rows of a chunk are due; published: one period after the other from the '
        'publication; timed: from the observation on, and what is past is skipped; from_pose: as '
        'published, displaced from where ee_pose was in the image, without what is done.',
        group='Motion',
        choices=('published', 'timed', 'from_pose'),
        settable=Settable.ALWAYS,
    )
    replan_rows: int = parameter(
        0,
        'Rows of a chunk that are played before the next inference begins, from an image of that '
        'time; the robot rests for rows that the chunk does not have; 0: it begins from the next '
        'image.',
        group='Motion',
        bounds=(0, 200),
        settable=Settable.ALWAYS,
    )
    max_pose_age_s: float = parameter(
        0.2,
        'Maximum age of the pose on ee_pose and of a transform that is not static, and time '
        'between two poses around an image; then motions that need it stop.',
        group='Motion',
        unit='s',
        bounds=(0.01, 10.0),
        settable=Settable.ALWAYS,
    )
    max_lead_m: float = parameter(
        0.1,
        'Maximum distance of the target from ee_pose with motion:=pose, where a radian counts as '
        '0.1 m; then the motion stops.',
        group='Motion',
        unit='m',
        bounds=(0.001, 10.0),
        settable=Settable.ALWAYS,
    )
    workspace_m: str = parameter(
        '',
        'Box that the tool must not leave: x_min, x_max, y_min, y_max, z_min, z_max in the frame '
        'of ee_pose, with several robots one for all, or one for each, separated by semicolons; '
        'empty: none.',
        group='Motion',
        unit='m',
        settable=Settable.ALWAYS,
    )
    control_rate_hz: float = parameter(
        50.0,
        'Rate at which twists or targets are published while moving.',
        group='Motion',
        unit='Hz',
        bounds=(20.0, 1000.0),
        settable=Settable.ALWAYS,
    )
    max_linear_speed_m_s: float = parameter(
        0.25,
        'Maximum linear speed of a twist; a faster motion is shortened and counted.',
        group='Motion',
        unit='m/s',
        bounds=(0.001, 10.0),
        settable=Settable.ALWAYS,
    )
    max_angular_speed_rad_s: float = parameter(
        1.0,
        'Maximum angular speed of a twist; a faster motion is shortened and counted.',
        group='Motion',
        unit='rad/s',
        bounds=(0.001, 50.0),
        settable=Settable.ALWAYS,
    )
    max_linear_jerk_m_s3: float = parameter(
        100.0,
        'Maximum linear jerk of the twists; a ramp takes 2 * sqrt(speed / jerk).',
        group='Motion',
        unit='m/s^3',
        bounds=(0.1, 1e5),
        settable=Settable.ALWAYS,
    )
    max_angular_jerk_rad_s3: float = parameter(
        400.0,
        'Maximum angular jerk of the twists; a ramp takes 2 * sqrt(speed / jerk).',
        group='Motion',
        unit='rad/s^3',
        bounds=(0.1, 1e5),
        settable=Settable.ALWAYS,
    )

    max_joint_speed_rad_s: float = parameter(
        0.0,
        'Maximum speed of every joint; a faster motion is shortened and counted; 0: none beside '
        'the limits of the contract and of robot_description.',
        group='Motion',
        unit='rad/s',
        bounds=(0.0, 50.0),
        settable=Settable.ALWAYS,
    )
    max_joint_acceleration_rad_s2: float = parameter(
        10.0,
        'Maximum acceleration of every joint; a ramp takes 2 * speed / acceleration of the '
        'fastest.',
        group='Motion',
        unit='rad/s^2',
        bounds=(0.1, 1000.0),
        settable=Settable.ALWAYS,
    )
    max_joint_lead_rad: float = parameter(
        0.3,
        'Maximum distance of a joint from its command, for a joint that slides in metres; then the '
        'motion stops.',
        group='Motion',
        unit='rad',
        bounds=(0.001, 10.0),
        settable=Settable.ALWAYS,
    )
    max_joint_age_s: float = parameter(
        0.2,
        'Maximum age of the positions on joint_states; then motions of joints stop.',
        group='Motion',
        unit='s',
        bounds=(0.01, 10.0),
        settable=Settable.ALWAYS,
    )
    robot_description: str = parameter(
        '',
        'URDF file with limits of the joints; topic: they are heard on robot_description; empty: '
        'none.',
        group='Motion',
    )
    gripper_command: str = parameter(
        'topic',
        'Form of the commands to a gripper; topic: openings on gripper; action, parallel_action: '
        "goals of control_msgs' GripperCommand, or ParallelGripperCommand, to gripper_cmd.",
        group='Motion',
        choices=('topic', 'action', 'parallel_action'),
    )
    gripper_closed_position: float = parameter(
        0.0,
        'Position of a closed gripper in its goals, in metres or radians as its controller has.',
        group='Motion',
        bounds=(-10.0, 10.0),
    )
    gripper_open_position: float = parameter(
        0.0,
        'Position of an open gripper in its goals, in metres or radians as its controller has.',
        group='Motion',
        bounds=(-10.0, 10.0),
    )
    gripper_max_effort: float = parameter(
        0.0,
        'Maximum effort in the goals of a gripper, in newtons or newton metres as its controller '
        'has; 0: none is named.',
        group='Motion',
        bounds=(0.0, 10000.0),
    )
    joint_groups: tuple[str, ...] = parameter(
        (),
        'How the names of the joints of each controller begin, as left_ and right_: each has a '
        'topic of its own, as left/joint_trajectory; empty: one controller has all joints.',
        group='Motion',
    )

    record: bool = parameter(
        False,
        'Whether each episode is recorded as a rosbag2, with the inputs of every action. Set while '
        'an instruction is in force, it records from the next one on.',
        group='Recording',
        settable=Settable.ALWAYS,
    )
    recording_folder: str = parameter(
        '',
        'Folder for the recordings; empty: vla_ros/recordings in ROS_HOME (~/.ros by default).',
        group='Recording',
    )
    recording_min_free_gb: float = parameter(
        2.0,
        'Space that stays free on the disk; below it nothing is recorded.',
        group='Recording',
        unit='GB',
        bounds=(0.0, 10000.0),
    )
    recording_queue_mb: float = parameter(
        128.0,
        'Maximum memory of the messages that wait for the disk; more are dropped.',
        group='Recording',
        unit='MB',
        bounds=(1.0, 100000.0),
    )

    autostart: bool = parameter(
        True,
        'Whether to configure and to activate at start; false: for a lifecycle manager.',
        group='Process',
        settable=Settable.AT_START,
    )
    hang_timeout_s: float = parameter(
        10.0,
        'Maximum time that a cancelled inference or the executor may hang; then the process ends.',
        group='Process',
        unit='s',
        bounds=(0.1, 3600.0),
        settable=Settable.ALWAYS,
    )

    @property
    def robot_names(self) -> tuple[str, ...]:
        """Return the name of each robot; ``('',)`` for one robot without a name."""
        return self.robots or NO_ROBOTS

    @property
    def moving_topics(self) -> tuple[str, ...]:
        """Return the names of the topics that move a robot, without its prefix."""
        topics = MOTION_TOPICS.get(self.motion, ())
        if self.motion in JOINT_MOTIONS:
            topics = tuple(group_topic(one, topics[0]) for one in self.joint_groups or ('',))
        return ('action', *topics)

    @property
    def workspaces(self) -> list[str]:
        """Return the text of each robot's box, in the order of ``robot_names``."""
        return self._each(self.workspace_m, ';')

    @property
    def frame_rotations(self) -> list[str]:
        """Return the text of each robot's rotation, in the order of ``robot_names``."""
        return self._each(self.frame_rotation_rpy, ';')

    @property
    def contract_frames(self) -> list[str]:
        """Return the frame with the contract's axes for each robot, as ``frame_ids``."""
        return self._each(self.contract_frame, ',')

    @property
    def tool_frames(self) -> list[str]:
        """Return the frame of each robot's tool, as ``frame_ids``."""
        return self._each(self.tool_frame, ',')

    @property
    def frame_ids(self) -> list[str]:
        """Return the frame of each robot, in the order of ``robot_names``."""
        return self._each(self.frame_id, ',')

    def _each(self, text: str, separator: str) -> list[str]:
        """Return the part for each robot; one part is for all."""
        parts = [part.strip() for part in text.split(separator)]
        return parts * len(self.robot_names) if len(parts) == 1 else parts


DEFINITIONS: Mapping[str, Definition] = MappingProxyType(
    {
        field.name: Definition(field.name, field.default, **field.metadata)
        for field in dataclasses.fields(Parameters)
    }
)


def group_topic(prefix: str, topic: str) -> str:
    """Return the name of a topic of a group of joints.

    :param prefix: how the names of its joints begin; empty: all joints.
    """
    group = prefix.rstrip('_-./')
    return f'{group}/{topic}' if group else topic
