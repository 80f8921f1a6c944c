"""The policy that is asked for, and what each kind of policy does with such a request.

Importing this loads neither numpy nor a policy.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the doctor reports what is not installed
    from vla_ros.types import Policy, PolicySpec, ProgressCallback


@dataclass(frozen=True)
class PolicyRequest:
    """The policy that is asked for. Names, defaults and meanings are those of the parameters."""

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

    @property
    def label(self) -> str:
        """How it is computed, in a word that is fit for a folder's name."""
        words = [self.device.replace(':', ''), self.dtype, self.quantization]
        return '-'.join(words if self.preprocessing == 'raw' else [*words, self.preprocessing])


def product(base: PolicyRequest, **lists: Sequence[Any]) -> list[PolicyRequest]:
    """Return every combination of the values, the first values first.

    :param base: what all have in common.
    :param lists: the values by field.
    """
    return [
        replace(base, **dict(zip(lists, values, strict=True)))
        for values in itertools.product(*lists.values())
    ]


class Inspection(Protocol):
    """What is known of a policy before its weights are loaded."""

    @property
    def folder(self) -> Path | None:
        """The checkpoint; None if the policy has none."""

    @property
    def unnorm_keys(self) -> Collection[str]:
        """The data sets whose statistics it has; none if any key will do."""

    def check(self) -> str:
        """Check all but the values of the weights, and return what was found, for the user.

        :raises PolicyError: if the policy could not be loaded.
        """

    def key(self, unnorm_key: str) -> str:
        """Return the key in force; empty means the only one.

        :raises PolicyError: if there are no such statistics.
        """

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return what the policy needs and gives.

        :raises PolicyError: if there are no such statistics.
        """

    def needed_bytes(self, request: PolicyRequest) -> int | None:
        """Return the memory that loading and running take; None if that is not worth asking.

        :param request: resolved.
        """


class Kind(Protocol):
    """A kind of policy: one room."""

    def owns(self, model: str) -> bool:
        """Return whether a model of this name is of this kind."""

    def resolve(self, request: PolicyRequest) -> PolicyRequest:
        """Return the request without ``auto``.

        :raises PolicyError: if it asks for what this kind or this machine does not have.
        """

    def inspect(self, request: PolicyRequest) -> Inspection | None:
        """Return what is known without the weights; None if it has to be downloaded first.

        :raises PolicyError: if not even its description can be read.
        """

    def recipe(self, request: PolicyRequest, center_crop: bool) -> dict[str, Any]:
        """Return what the answers of a loaded policy depend on beside the request."""

    def load(
        self,
        request: PolicyRequest,
        center_crop: bool,
        max_batch_size: int,
        progress: ProgressCallback,
    ) -> Policy:
        """Load the policy.

        :param center_crop: whether images are cropped, as they were in training.
        :param max_batch_size: number of observations that may be predicted at a time.
        :raises PolicyError: if there can be no such policy.
        """
