"""What was set for the node, held against what it takes: names, types, values, combinations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from vla_ros.doctor.facts import Choice, Facts
from vla_ros.doctor.findings import Finding, ok, refused, warn
from vla_ros.doctor.overrides import ParameterFileError, read_parameter_file, read_value
from vla_ros.errors import VlaError


def check_parameters(facts: Facts) -> Iterator[Finding]:
    """Also says to the checks that follow what was chosen; this one needs no ROS for that."""
    setup = facts.setup
    overrides: dict[str, Any] = {}
    try:
        if setup.parameters_file is not None:
            overrides |= read_parameter_file(setup.parameters_file, setup.node)
        for name, text in setup.assignments.items():
            overrides[name] = read_value(text)
    except ParameterFileError as error:
        yield refused(error, 'mend that')
    if setup.model:
        overrides['model'] = setup.model
    facts.overrides = overrides
    defaults = dataclasses.asdict(Choice())
    facts.choice = Choice(
        **{
            name: overrides[name]
            for name, default in defaults.items()
            if type(overrides.get(name)) is type(default)
        }
    )
    if find_spec('rclpy') is None:
        yield warn('not looked at without ROS 2, by whose rules they are read', 'source ROS 2')
        return
    yield from _check_values(facts)


def _check_values(facts: Facts) -> Iterator[Finding]:
    from vla_ros.ros.parameters import (
        ParameterError,
        Parameters,
        check_name,
        check_value,
        is_ours,
        typed_value,
    )

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
            refusals.append(refused(_in_parts(error), 'set it to one of these, or leave it out'))
    facts.parameters = Parameters(**values)
    try:
        facts.parameters.check()
    except ParameterError as error:
        refusals.append(refused(_in_parts(error), 'mend one of them'))
    yield from refusals
    if not refusals:
        file = facts.setup.parameters_file
        source = f' ({file})' if file else ''
        yield ok(f'{len(facts.overrides)} set{source}, the others by default')


def _in_parts(error: VlaError) -> VlaError:
    """Return the error with its advice apart; ParameterError alone still has it in its text."""
    what, _, advice = error.what.rpartition('; ')
    return error if error.advice or not what else VlaError(what, advice)
