"""The session of one robot: the state that is kept between its predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.openvla.request import Request
from vla_ros.types import Observation, PolicyError, PolicySpec, Prediction, Session


class OpenVLASession:
    """The statistics that scale a robot's actions, and the draft of its next action.

    Belongs to the policy's thread. ``draft`` is int64 [<=D], the token ids of the last valid
    action; None if there is none.
    """

    def __init__(self, spec: PolicySpec, unnorm_key: str) -> None:
        self.spec = spec
        self.unnorm_key = unnorm_key
        self.draft: NDArray[np.int64] | None = None

    def reset(self) -> None:
        """Forget the last action, so that it is not the draft of the next one."""
        self.draft = None

    def request(self, observation: Observation) -> Request:
        """Return the request for an observation.

        :raises PolicyError: if the camera's image is missing.
        """
        (camera,) = self.spec.cameras
        if camera not in observation.images:
            raise PolicyError(
                f'there is no image of the camera {camera!r}; there are images of '
                f'{", ".join(sorted(observation.images)) or "no camera"}'
            )
        image = observation.images[camera]
        return Request(image, observation.instruction, self.unnorm_key, self.draft)

    def remember(self, prediction: Prediction) -> None:
        """Keep a valid action as the draft of the next one."""
        if prediction.invalid is None and prediction.tokens is not None:
            self.draft = prediction.tokens.ids


def own(session: Session) -> OpenVLASession:
    """Return the session if it is of an OpenVLA policy.

    :raises TypeError: otherwise.
    """
    if not isinstance(session, OpenVLASession):
        raise TypeError(f'{session!r} is not a session of an OpenVLA policy')
    return session
