# SPDX-License-Identifier: Apache-2.0
"""Check the parameters that are set for the node: names, types, values and combinations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, ok, refused
from vla_ros.parameters.check import (
    ParameterError,
    check_all,
    check_name,
    check_value,
    is_ours,
    typed_value,
)
from vla_ros.parameters.definition import DEFINITIONS, Parameters
from vla_ros.parameters.overrides import ParameterFileError, read_parameter_file, read_value
from vla_ros.policy_request import PolicyRequest


def check_parameters(facts: Facts) -> Iterator[Finding]:
    """Check them by the node's own rules, without ROS; keep them for the checks that follow."""
    setup = facts.setup
    overrides: dict[str, Any] = {}
    try:
        if setup.parameters_file is not None:
            overrides |= read_parameter_file(setup.parameters_file, setup.node)
        for name, text in setup.assignments.items():
            overrides[name] = _assigned(name, text)
    except ParameterFileError as error:
        yield refused(error, 'fix that')
    if setup.model:
        overrides['model'] = setup.model
    facts.overrides = overrides
    facts.request = PolicyRequest.of(overrides)
    yield from _check_values(facts)


def _assigned(name: str, text: str) -> Any:
    """Return the value of an assignment; like the launch file, take 2024 as text where it is.

    :raises ParameterFileError: if the text is not YAML.
    """
    value = read_value(text)
    is_text = name in DEFINITIONS and DEFINITIONS[name].kind is str
    return text if is_text and type(value) is not str else value


def _check_values(facts: Facts) -> Iterator[Finding]:
    refusals: list[Finding] = []
    values = {}
    for name, value in facts.overrides.items():
        try:
            check_name(name)
            if is_ours(name):
                typed = typed_value(name, value)
                check_value(name, typed)
                values[name] = typed
        except ParameterError as error:
            refusals.append(refused(error, 'set it to one of these, or leave it out'))
    facts.parameters = Parameters(**values)
    try:
        check_all(facts.parameters)
    except ParameterError as error:
        refusals.append(refused(error, 'fix one of them'))
    yield from refusals
    if not refusals:
        file = facts.setup.parameters_file
        source = f' ({file})' if file else ''
        yield ok(f'{len(facts.overrides)} set{source}, the others by default')
