# SPDX-License-Identifier: Apache-2.0
"""The session of one robot: the state that is kept between its predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.openvla.kept_patches import PatchMemory
from vla_ros.openvla.request import Request, camera_images, checked_state
from vla_ros.types import Observation, PolicySpec, Prediction, Session


class OpenVLASession:
    """The statistics that scale a robot's actions, and what the next inference takes from the last.

    Belongs to the policy's thread. ``draft`` is int64 [<=D], the token ids of the last valid
    action; None if there is none.

    :param takes_drafts: whether the policy decodes tokens one after the other.
    :param patches: memory of the robot's patches; None if every patch is computed.
    """

    def __init__(
        self,
        spec: PolicySpec,
        unnorm_key: str,
        takes_drafts: bool = True,
        patches: PatchMemory | None = None,
    ) -> None:
        self.spec = spec
        self.unnorm_key = unnorm_key
        self.takes_drafts = takes_drafts
        self.draft: NDArray[np.int64] | None = None
        self._patches = patches

    def reset(self) -> None:
        """Forget the last action and the patches: the next inference takes nothing from them."""
        self.draft = None
        if self._patches is not None:
            self._patches.forget()

    def request(self, observation: Observation) -> Request:
        """Return the request for an observation.

        :raises PolicyError: if a camera's image is missing, or the state is missing or not usable.
        """
        return Request(
            camera_images(observation.images, self.spec),
            observation.instruction,
            self.unnorm_key,
            self.draft,
            checked_state(observation.state, self.spec),
            self._patches,
        )

    def remember(self, prediction: Prediction) -> None:
        """Keep a valid action as the draft of the next one, if tokens are decoded one by one."""
        if self.takes_drafts and prediction.invalid is None and prediction.tokens is not None:
            self.draft = prediction.tokens.ids


def own(session: Session) -> OpenVLASession:
    """Return the session if it is of an OpenVLA policy.

    :raises TypeError: otherwise.
    """
    if not isinstance(session, OpenVLASession):
        raise TypeError(f'{session!r} is not a session of an OpenVLA policy')
    return session
