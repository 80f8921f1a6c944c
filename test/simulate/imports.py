# SPDX-License-Identifier: Apache-2.0
"""Gives ``vla_ros`` its stand-ins, and rclpy its fake extension module.

Call :func:`install` in a process of its own, before anything imports rclpy or ``vla_ros``. A module
of ``vla_ros`` is executed with an ``import`` statement of its own that hands it the stand-ins of
``SUBSTITUTES``, whatever form the statement has; nothing else in the process notices.
"""

from __future__ import annotations

import builtins
import functools
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

from simulate import threads

SUBSTITUTES: dict[str, Any] = {
    'threading': threads.threading,
    'time': threads.time,
    'signal': threads.signal,
    'os': threads.os,
    'faulthandler': threads.faulthandler,
}
# And what lies in them.
_AS_IT_IS = ('vla_ros.action', 'vla_ros.msg', 'vla_ros.openvla', 'vla_ros.scripted')


def _import(
    name: str,
    globals: Any = None,
    locals: Any = None,
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> Any:
    top = name.partition('.')[0]
    if level == 0 and top in SUBSTITUTES and (top == name or not fromlist):
        return SUBSTITUTES[top]
    return builtins.__import__(name, globals, locals, fromlist, level)


_BUILTINS = {**vars(builtins), '__import__': _import}


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        module.__dict__['__builtins__'] = _BUILTINS
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not f'{name}.'.startswith('vla_ros.'):
            return None
        if any(f'{name}.'.startswith(f'{one}.') for one in _AS_IT_IS):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Also imports what the simulation needs of both."""
    assert 'vla_ros' not in sys.modules and 'rclpy' not in sys.modules, 'too late'
    # The simulation's text must be the same everywhere; what is printed is nobody's.
    os.environ['RCUTILS_COLORIZED_OUTPUT'] = '0'
    from simulate import rclpy_fake

    sys.modules[rclpy_fake.NAME] = rclpy_fake.module()
    sys.meta_path.insert(0, _Finder())

    from simulate import executor

    executor.install()

    from vla_ros import shared_memory, watchdog
    from vla_ros.images import cv_bridge
    from vla_ros.motion import contract

    watchdog.Watchdog = threads.Watchdog  # a child of the node's would count real time
    shared_memory.remove_dead_segments = lambda: shared_memory.Removed()  # this machine's
    cv_bridge.verdict = cv_bridge.Verdict  # no process is started to try it
    read = functools.cache(contract._read)
    contract._read = lambda file: dict(read(file))  # YAML takes a tenth of the time otherwise
