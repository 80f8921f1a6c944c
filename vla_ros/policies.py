"""Which policy there shall be, and the way to it; for the node, the doctor and the replay alike.

What it takes is imported when a policy is loaded, not before. Knows nothing of ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the doctor tells what is not installed
    from vla_ros.openvla import Preprocessing
    from vla_ros.types import Policy, ProgressCallback


@dataclass(frozen=True)
class PolicyChoice:
    """Names, defaults and meanings are those of the node's parameters."""

    model: str = ''
    revision: str = ''
    device: str = 'auto'
    dtype: str = 'auto'
    quantization: str = 'none'
    compile: bool = False
    unnorm_key: str = ''
    contracts: str = ''
    preprocessing: str = 'raw'
    rotate_180: bool = False

    def picture_preprocessing(self) -> Preprocessing:
        """Pictures are cropped if they were in the training that is imitated.

        :raises ContractError: if nobody knows whether they were.
        :raises PreprocessingError: if there is none of that name.
        """
        from vla_ros.motion import was_cropped
        from vla_ros.openvla import Preprocessing

        in_training = self.preprocessing == 'training'
        crops = in_training and was_cropped(self.unnorm_key, self.contracts or None)
        return Preprocessing(self.preprocessing, crops, self.rotate_180)


def load_policy(
    choice: PolicyChoice, max_batch_size: int = 1, progress: ProgressCallback = lambda _: None
) -> Policy:
    """Importing torch, where there is a model, takes seconds.

    :param max_batch_size: how many requests may be predicted at once.
    :raises PolicyError: if there can be no such policy.
    """
    from vla_ros.scripted import ScriptedPolicy, is_scripted

    if is_scripted(choice.model):
        return ScriptedPolicy.from_script(choice.model, progress, max_batch_size)
    from vla_ros.openvla import OpenVLAPolicy

    return OpenVLAPolicy.from_pretrained(
        choice.model,
        device=choice.device,
        dtype=choice.dtype,
        quantization=choice.quantization,
        revision=choice.revision or None,
        compile=choice.compile,
        max_batch_size=max_batch_size,
        preprocessing=choice.picture_preprocessing(),
        progress=progress,
    )
