# SPDX-License-Identifier: Apache-2.0
"""What the launch files share. Only they import it: it needs ``launch``, and nothing else of ROS.

A recipe is ``vla.launch.py`` with other defaults. Its launch file names them and calls
:func:`recipe`; docs/recipes has a page for each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions

MAIN = 'vla.launch.py'
NONE = 'none'  # in place of a recipe's default; the command line of ros2 launch allows no empty one


def inclusion() -> IncludeLaunchDescription | None:
    """Return the action that includes the file: of ``ros2 launch`` itself, or of a bring-up.

    launch visits actions recursively, so the innermost inclusion on the stack is that of the file
    that asks. None if its description was made without one.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        entity = frame.f_locals.get('entity')
        if isinstance(entity, IncludeLaunchDescription):
            return entity
    return None


def passed_names(context: LaunchContext, included: IncludeLaunchDescription) -> set[str]:
    """Return the names of the arguments that an inclusion passes."""
    return {
        perform_substitutions(context, normalize_to_list_of_substitutions(name))
        for name, _ in included.launch_arguments
    }


def share(*names: str) -> str:
    """Return the path of an installed file of this package, such as config, recipes, aloha.yaml."""
    return str(Path(get_package_share_directory('vla_ros'), *names))


def recipe(**defaults: str) -> LaunchDescription:
    """Return the description of a recipe: ``vla.launch.py`` with other defaults.

    Each argument of ``vla.launch.py`` is one of the recipe, too. One that is passed takes the place
    of the recipe's, and ``none`` leaves it to ``vla.launch.py``. An unknown one stops the launch.

    :param defaults: by the names of these arguments.
    """

    def include(context: LaunchContext) -> list[IncludeLaunchDescription]:
        included = inclusion()
        passed = defaults.keys() if included is None else passed_names(context, included)
        given = {**defaults, **{name: context.launch_configurations[name] for name in passed}}
        for name in defaults:
            if given[name] == NONE:
                del given[name], context.launch_configurations[name]
        main = PythonLaunchDescriptionSource(share('launch', MAIN))
        return [IncludeLaunchDescription(main, launch_arguments=[*given.items()])]

    declared = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=f'As in {MAIN}, whose other arguments are allowed here, too; '
            f'{NONE}: its default.',
        )
        for name, default in defaults.items()
    ]
    # A group, so that no argument outlives the recipe and becomes that of another file.
    return LaunchDescription([GroupAction([*declared, OpaqueFunction(function=include)])])
