"""The scripted policy in the registry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vla_ros.policy_request import PolicyRequest
from vla_ros.scripted.policy import ScriptedPolicy, spec_of
from vla_ros.scripted.script import is_scripted, read_script
from vla_ros.types import PolicyError, PolicySpec, ProgressCallback

_PLAIN = ('auto', 'auto', 'none', 'raw', False)


@dataclass(frozen=True)
class ScriptedInspection:
    """What a script says."""

    model: str
    all_keys: PolicySpec
    folder: None = None
    unnorm_keys: tuple[str, ...] = ()

    def check(self) -> str:
        """Return that there is nothing to check: the script has been read."""
        return f'{self.model}: a policy without a checkpoint'

    def key(self, unnorm_key: str) -> str:
        """Return the key as it is: any will do."""
        return unnorm_key

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return what the policy needs and gives, whatever the key."""
        return self.all_keys

    def needed_bytes(self, request: PolicyRequest) -> None:
        """Return None: it is next to nothing."""


class Scripted:
    """Owns ``scripted`` and ``scripted:...``; ignores what only concerns models."""

    def owns(self, model: str) -> bool:
        """Return whether the model is a script."""
        return is_scripted(model)

    def resolve(self, request: PolicyRequest) -> PolicyRequest:
        """Return the request with the device and dtype that it has.

        :raises PolicyError: if it asks for a device, dtype, quantization or preprocessing.
        """
        asked = (request.device, request.dtype, request.quantization)
        if (*asked, request.preprocessing, request.rotate_180) != _PLAIN:
            raise PolicyError(
                f'model {request.model!r} has no device, dtype, quantization or preprocessing',
                'leave these options out',
            )
        return replace(request, device='cpu', dtype='float64')

    def inspect(self, request: PolicyRequest) -> ScriptedInspection:
        """Return what the script says.

        :raises PolicyError: if it is malformed.
        """
        _, options = read_script(request.model)
        return ScriptedInspection(request.model, spec_of(options))

    def recipe(self, request: PolicyRequest, center_crop: bool) -> dict[str, Any]:
        """Return nothing: the script says all."""
        return {}

    def load(
        self,
        request: PolicyRequest,
        center_crop: bool,
        max_batch_size: int,
        progress: ProgressCallback,
    ) -> ScriptedPolicy:
        """Make the policy, and do what the script says of loading.

        :raises PolicyError: if the script is malformed.
        """
        return ScriptedPolicy.from_script(request.model, progress, max_batch_size)
