# SPDX-License-Identifier: Apache-2.0
"""Writes recordings, as `ros2 bag record` would, without ROS."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from support.places import ROOT

ACTION = 'vla_ros/msg/VlaAction'
STORAGES = {'sqlite3': StoragePlugin.SQLITE3, 'mcap': StoragePlugin.MCAP}
SECOND_NS = 10**9
START_NS = 1_700_000_000 * SECOND_NS
LATENCY_NS = 7_000_000  # from a picture's stamp to its recording


def new_types(action_definition: str) -> Typestore:
    """ROS's common types, and actions of the node by this text of a .msg file."""
    types = get_typestore(Stores.LATEST)
    types.register(get_types_from_msg(action_definition, ACTION))
    return types


TYPES = new_types((ROOT / 'msg' / 'VlaAction.msg').read_text())


def at(bag_time_s: float) -> int:
    """Bag time in nanoseconds."""
    return START_NS + round(bag_time_s * SECOND_NS)


def _fields(types: Typestore) -> list[str]:
    """Of an action."""
    return [name for name, _ in types.fielddefs[ACTION][1]]


class Recorder:
    """Times are seconds since the beginning; pictures are stamped LATENCY_NS earlier."""

    def __init__(self, writer: Writer, types: Typestore) -> None:
        self._writer = writer
        self._types = types
        self._connections: dict[str, Any] = {}

    def raw(self, topic: str, kind: str, bag_time_s: float, data: bytes | memoryview) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types
            )
        self._writer.write(self._connections[topic], at(bag_time_s), data)

    def write(self, topic: str, kind: str, bag_time_s: float, **fields: Any) -> None:
        data = self._types.serialize_cdr(self._message(kind, **fields), kind)
        self.raw(topic, kind, bag_time_s, data)

    def image(
        self,
        topic: str,
        bag_time_s: float,
        picture: NDArray[np.uint8],
        encoding: str = 'rgb8',
    ) -> None:
        """:param picture: uint8 [H, W, C]."""
        height, width, channels = picture.shape
        self.write(
            topic,
            'sensor_msgs/msg/Image',
            bag_time_s,
            header=self._header(at(bag_time_s) - LATENCY_NS),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=width * channels,
            data=np.ascontiguousarray(picture).reshape(-1),
        )

    def png(self, topic: str, bag_time_s: float, picture: PIL.Image.Image) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, 'png')
        self.write(
            topic,
            'sensor_msgs/msg/CompressedImage',
            bag_time_s,
            header=self._header(at(bag_time_s) - LATENCY_NS),
            format='png',
            data=np.frombuffer(buffer.getvalue(), np.uint8),
        )

    def state(self, topic: str, bag_time_s: float, values: Sequence[float]) -> None:
        self.write(
            topic,
            'sensor_msgs/msg/JointState',
            bag_time_s,
            header=self._header(at(bag_time_s) - LATENCY_NS),
            name=[],
            position=np.array(values, np.float64),
            velocity=np.zeros(0),
            effort=np.zeros(0),
        )

    def string(self, topic: str, bag_time_s: float, text: str) -> None:
        self.write(topic, 'std_msgs/msg/String', bag_time_s, data=text)

    def twist(self, topic: str, bag_time_s: float, values: Sequence[float], stamped: bool) -> None:
        x, y, z, roll, pitch, yaw = map(float, values)
        twist = self._message(
            'geometry_msgs/msg/Twist',
            linear=self._message('geometry_msgs/msg/Vector3', x=x, y=y, z=z),
            angular=self._message('geometry_msgs/msg/Vector3', x=roll, y=pitch, z=yaw),
        )
        if stamped:
            kind = 'geometry_msgs/msg/TwistStamped'
            self.write(topic, kind, bag_time_s, header=self._header(at(bag_time_s)), twist=twist)
        else:
            data = self._types.serialize_cdr(twist, 'geometry_msgs/msg/Twist')
            self.raw(topic, 'geometry_msgs/msg/Twist', bag_time_s, data)

    def action(self, topic: str, bag_time_s: float, values: Sequence[float]) -> None:
        """Write an action with what its definition has, of whatever version."""
        time = self._time(at(bag_time_s))
        zero = self._message('builtin_interfaces/msg/Duration', sec=0, nanosec=0)
        numbers = np.array(values, np.float64)
        fields = {
            'header': self._header(at(bag_time_s)),
            'observation_stamp': time,
            'valid_until': time,
            'due': time,
            'sequence': 1,
            'instruction': '',
            'unnorm_key': '',
            'action_space': 0,
            'names': [f'value_{column}' for column in range(len(values))],
            'action': numbers,
            'horizon': 1,
            'actions': numbers,
            'normalized_action': np.zeros(len(values), np.float64),
            'period': zero,
            'gripper_column': -1,
            'gripper_closed': 0.0,
            'gripper_open': 0.0,
            'token_probabilities': np.zeros(len(values), np.float32),
            'inference_time': zero,
            'latency': zero,
        }
        self.write(
            topic, ACTION, bag_time_s, **{name: fields[name] for name in _fields(self._types)}
        )

    def _message(self, kind: str, **fields: Any) -> Any:
        return self._types.types[kind](**fields)

    def _header(self, stamp_ns: int) -> Any:
        return self._message('std_msgs/msg/Header', stamp=self._time(stamp_ns), frame_id='camera')

    def _time(self, nanoseconds: int) -> Any:
        sec, nanosec = divmod(nanoseconds, SECOND_NS)
        return self._message('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)


@contextmanager
def recording(path: Path, storage: str = 'mcap', types: Typestore = TYPES) -> Iterator[Recorder]:
    """:param storage: ``sqlite3`` or ``mcap``."""
    with Writer(path, version=9, storage_plugin=STORAGES[storage]) as writer:
        yield Recorder(writer, types)
