# SPDX-License-Identifier: Apache-2.0
"""The request for a policy, and the interface of each kind of policy.

Importing this loads neither numpy nor a policy.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the doctor reports what is not installed
    from vla_ros.types import Policy, PolicySpec, ProgressCallback


@dataclass(frozen=True)
class PolicyRequest:
    """A request for a policy. Names, defaults and meanings are those of the parameters."""

    model: str = ''
    revision: str = ''
    device: str = 'auto'
    dtype: str = 'auto'
    quantization: str = 'none'
    compile: bool = False
    cuda_graphs: bool = True
    recomputed_patches: float = 1.0
    unnorm_key: str = ''
    contracts: str = ''
    preprocessing: str = 'raw'
    rotate_180: bool = False
    remote_token_file: str = ''
    remote_ca_file: str = ''
    remote_image: str = 'raw'

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> PolicyRequest:
        """Return the policy that the node's parameters ask for.

        A parameter that is absent, or has another type, keeps its default.
        """
        return cls(
            **{
                field.name: parameters[field.name]
                for field in fields(cls)
                if type(parameters.get(field.name)) is type(field.default)
            }
        )

    @property
    def label(self) -> str:
        """Device, dtype, quantization and more, in a word that suits a folder's name."""
        # Once each: those of a server are unknown here.
        words = [*dict.fromkeys([self.device.replace(':', ''), self.dtype, self.quantization])]
        words += [] if self.recomputed_patches == 1 else [f'patches{self.recomputed_patches:g}']
        return '-'.join(words if self.preprocessing == 'raw' else [*words, self.preprocessing])


def product(base: PolicyRequest, **lists: Sequence[Any]) -> list[PolicyRequest]:
    """Return every combination of the values, the first values first.

    :param base: request with the values that all combinations share.
    :param lists: the values by field.
    """
    return [
        replace(base, **dict(zip(lists, values, strict=True)))
        for values in itertools.product(*lists.values())
    ]


class Inspection(Protocol):
    """The properties of a policy that are known before its weights are loaded."""

    @property
    def folder(self) -> Path | None:
        """The checkpoint; None if the policy has none."""

    @property
    def unnorm_keys(self) -> Collection[str]:
        """The data sets whose statistics it has; empty if it takes any key."""

    def check(self) -> str:
        """Check all but the values of the weights, and return what was found, for the user.

        :raises PolicyError: if the policy could not be loaded.
        """

    def key(self, unnorm_key: str) -> str:
        """Return the key to use; an empty one selects the only one.

        :raises PolicyError: if there are no such statistics.
        """

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the policy's spec.

        :raises PolicyError: if there are no such statistics.
        """

    def needed_bytes(self, request: PolicyRequest, robots: int = 1) -> int | None:
        """Return the memory that loading and running take; None if it is negligible.

        :param request: resolved.
        :param robots: of the largest batch.
        """


class Kind(Protocol):
    """A kind of policy, implemented by one room."""

    def owns(self, model: str) -> bool:
        """Return whether a model of this name is of this kind."""

    def resolve(self, request: PolicyRequest) -> PolicyRequest:
        """Return the request without ``auto``.

        :raises PolicyError: if it asks for what this kind or this machine does not have.
        """

    def inspect(self, request: PolicyRequest) -> Inspection | None:
        """Return the policy's properties; None if its files must be downloaded first.

        :raises PolicyError: if not even its description can be read.
        """

    def recipe(self, request: PolicyRequest, center_crop: bool) -> dict[str, Any]:
        """Return the facts beyond the request that a loaded policy's answers depend on."""

    def load(
        self,
        request: PolicyRequest,
        center_crop: bool,
        max_batch_size: int,
        progress: ProgressCallback,
        repeatable: bool,
    ) -> Policy:
        """Load the policy.

        :param center_crop: whether images are cropped, as they were in training.
        :param max_batch_size: number of observations that may be predicted at a time.
        :param repeatable: whether equal inputs give equal bits in every process of a machine; then
            nothing that was measured decides how they are computed.
        :raises PolicyError: if the policy can't be loaded.
        """
