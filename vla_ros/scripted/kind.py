# SPDX-License-Identifier: Apache-2.0
"""The registry's kind for scripted policies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vla_ros.policy_request import PolicyRequest
from vla_ros.scripted.policy import ScriptedPolicy, spec_of
from vla_ros.scripted.script import is_scripted, read_script
from vla_ros.types import PolicyError, PolicySpec, ProgressCallback

_PLAIN = ('auto', 'auto', 'none', 1.0, 'raw', False)


@dataclass(frozen=True)
class ScriptedInspection:
    """The properties of a scripted policy, read from its script."""

    model: str
    all_keys: PolicySpec
    folder: None = None
    unnorm_keys: tuple[str, ...] = ()

    def check(self) -> str:
        """Return that there is nothing to check: the script has been read."""
        return f'{self.model}: a policy without a checkpoint'

    def key(self, unnorm_key: str) -> str:
        """Return the key unchanged, since a scripted policy takes any."""
        return unnorm_key

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the policy's spec, which is the same for every key."""
        return self.all_keys

    def needed_bytes(self, request: PolicyRequest, robots: int = 1) -> None:
        """Return None, since it needs hardly any memory."""


class Scripted:
    """The kind of ``scripted`` and ``scripted:...``."""

    def owns(self, model: str) -> bool:
        """Return whether the model is a script."""
        return is_scripted(model)

    def resolve(self, request: PolicyRequest) -> PolicyRequest:
        """Return the request with the device and dtype of all scripted policies.

        :raises PolicyError: if it asks for a device, dtype, quantization, recomputed_patches or
            preprocessing.
        """
        asked = request.device, request.dtype, request.quantization, request.recomputed_patches
        if (*asked, request.preprocessing, request.rotate_180) != _PLAIN:
            raise PolicyError(
                f'model {request.model!r} has no device, dtype, quantization, recomputed_patches '
                'or preprocessing',
                'leave these options out',
            )
        return replace(request, device='cpu', dtype='float64')

    def inspect(self, request: PolicyRequest) -> ScriptedInspection:
        """Return the properties that the script gives.

        :raises PolicyError: if the script is malformed.
        """
        _, options = read_script(request.model)
        return ScriptedInspection(request.model, spec_of(options))

    def recipe(self, request: PolicyRequest, center_crop: bool) -> dict[str, Any]:
        """Return an empty recipe, since the script determines the answers."""
        return {}

    def load(
        self,
        request: PolicyRequest,
        center_crop: bool,
        max_batch_size: int,
        progress: ProgressCallback,
        repeatable: bool,
    ) -> ScriptedPolicy:
        """Make the policy, and run the script's faults of loading.

        :raises PolicyError: if the script is malformed.
        """
        return ScriptedPolicy.from_script(request.model, progress, max_batch_size)
