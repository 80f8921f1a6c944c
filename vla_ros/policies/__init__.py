# SPDX-License-Identifier: Apache-2.0
"""The registry of policies, for the node, the doctor, the replay and the commands."""

from vla_ros.policies.registry import (
    KINDS,
    center_crop,
    inspect,
    kind_of,
    load_policy,
    recipe,
    resolve,
    resolve_all,
)
from vla_ros.policy_request import PolicyRequest, product

__all__ = [
    'KINDS',
    'PolicyRequest',
    'center_crop',
    'inspect',
    'kind_of',
    'load_policy',
    'product',
    'recipe',
    'resolve',
    'resolve_all',
]
