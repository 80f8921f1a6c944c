# SPDX-License-Identifier: Apache-2.0
"""Build with colcon as in a workspace; check what is installed; run tests as colcon does.

`make colcon` runs this with the Python of .venv; everything is made in build/colcon. It checks that
every file of the package, of launch, config and models is installed, the entries in the index of
packages and interfaces, that each message and action can be imported, and that each command starts.
Of the tests colcon runs some of the node in a process of its own, and those of the launch file:
`make test` runs all of them. Where `ros2 launch` is installed, of which there is no wheel, it lists
the arguments, and starts the node, which has to answer images and an instruction with an action.
Standard library only.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKSPACE = ROOT / 'build' / 'colcon'
INSTALLED = WORKSPACE / 'install' / 'vla_ros'
SHARE = INSTALLED / 'share' / 'vla_ros'
INDEX = INSTALLED / 'share' / 'ament_index' / 'resource_index'

# What `colcon test` runs here: of the folder test/ros, these files.
CTEST = '^ros$'
COMMAND_LIMIT_S = 120.0
FILES = ('test_launch', 'test_security', 'test_execute')

# A graph of its own for the node under `ros2 launch`.
GRAPH = {'ROS_DOMAIN_ID': '97', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
END_LIMIT_S = 30.0

IMPORTS = """
import importlib, sys
from ament_index_python.packages import get_package_share_directory
print(get_package_share_directory('vla_ros'))
for name in sys.argv[1:]:
    module, _, kind = name.rpartition('.')
    type(getattr(importlib.import_module(module), kind)).__import_type_support__()
    print(sys.modules[module].__file__)
"""


class Fault(Exception):
    """What is wrong with the build."""


def main() -> int:
    """Return 0 if all is well."""
    started_s = time.monotonic()
    try:
        build()
        files = check_files()
        interfaces = check_interfaces()
        commands = check_commands()
        check_launch()
        run_tests()
    except Fault as fault:
        print(f'make colcon: {fault}', file=sys.stderr)
        return 1
    print(
        f'make colcon: {files} files, {interfaces} interfaces and {commands} commands are '
        f'installed; {time.monotonic() - started_s:.0f} s'
    )
    return 0


def environment() -> dict[str, str]:
    """Return the environment for colcon: the one of this Python, and ROS 2's prefix."""
    kept = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH' or _sourced()}
    prefix = kept.get('AMENT_PREFIX_PATH') or sys.prefix
    path = f'{Path(sys.executable).parent}{os.pathsep}{kept["PATH"]}'
    return {
        **kept,
        'AMENT_PREFIX_PATH': prefix,
        'CMAKE_PREFIX_PATH': os.pathsep.join(filter(None, [prefix, kept.get('CMAKE_PREFIX_PATH')])),
        'PATH': path,
    }


def _sourced() -> bool:
    """Tell whether a ROS 2 is sourced; its Python packages are then found by PYTHONPATH."""
    return bool(os.environ.get('AMENT_PREFIX_PATH'))


def colcon(verb: str, *arguments: str, **more: str) -> None:
    """Run colcon on this package.

    :raises Fault: if it is not there or fails.
    """
    program = shutil.which('colcon', path=environment()['PATH'])
    if program is None:
        raise Fault('there is no colcon: sudo apt install python3-colcon-common-extensions')
    command = [program, '--log-base', str(WORKSPACE / 'log'), verb]
    command += ['--paths', str(ROOT), '--build-base', str(WORKSPACE / 'build')]
    command += ['--install-base', str(WORKSPACE / 'install'), *arguments]
    # Not in the source tree: the current folder comes first when Python looks for vla_ros.
    if subprocess.run(command, cwd=WORKSPACE, env=environment() | more).returncode != 0:
        raise Fault(f'colcon {verb} failed; see above, and {WORKSPACE / "log"}')


def build() -> None:
    """Build from nothing but what CMake keeps.

    :raises Fault: if colcon fails.
    """
    shutil.rmtree(WORKSPACE / 'install', ignore_errors=True)  # it may have what was deleted since
    WORKSPACE.mkdir(parents=True, exist_ok=True)
    colcon('build', '--cmake-args', f'-DPython3_EXECUTABLE={sys.executable}', '-DBUILD_TESTING=ON')


def sources(*folders: str) -> list[Path]:
    """Return the files of folders of the source tree, relative to it."""
    files = [file for folder in folders for file in (ROOT / folder).rglob('*') if file.is_file()]
    return sorted(
        file.relative_to(ROOT)
        for file in files
        if file.suffix != '.pyc' and '__pycache__' not in file.parts
    )


def check_files() -> int:
    """Return the number of files of ours that are installed, unchanged.

    :raises Fault: if one is missing, or an entry in the index is.
    """
    [init] = INSTALLED.glob('lib/*/site-packages/vla_ros/__init__.py')
    python = init.parent.parent
    expected = {
        SHARE / file: file for file in sources('launch', 'config', 'models', 'msg', 'action')
    }
    expected |= {python / file: file for file in sources('vla_ros')}
    for name in ('package.xml', 'requirements/runtime.txt'):
        expected[SHARE / name] = Path(name)
    different = [
        str(file)
        for installed, file in expected.items()
        if not installed.is_file() or installed.read_bytes() != (ROOT / file).read_bytes()
    ]
    if different:
        raise Fault(f'not installed, or not as in the source: {", ".join(different)}')
    for kind in ('packages', 'package_run_dependencies', 'rosidl_interfaces'):
        if not (INDEX / kind / 'vla_ros').is_file():
            raise Fault(f'the index has no entry {kind}/vla_ros')
    return len(expected)


def check_interfaces() -> int:
    """Return the number of messages and actions, each of which Python imports from this build.

    :raises Fault: if one is not in the index, or its Python or its library is not there.
    """
    files = sources('msg', 'action')
    listed = (INDEX / 'rosidl_interfaces' / 'vla_ros').read_text().split()
    if missing := {str(file) for file in files} - set(listed):
        raise Fault(f'the index of interfaces lacks {", ".join(sorted(missing))}')
    names = [f'vla_ros.{file.parent}.{file.stem}' for file in files]
    told = in_workspace([sys.executable, '-c', IMPORTS, *names]).splitlines()
    others = [line for line in told if line.startswith('/') and str(INSTALLED) not in line]
    if others or len(told) != 1 + len(files):
        raise Fault(f'Python finds what this build did not make: {", ".join(others) or told}')
    return len(files)


def check_commands() -> int:
    """Return the number of commands, each of which says its options, or the node what it is given.

    :raises Fault: if one is missing or fails.
    """
    setup = ast.parse((ROOT / 'setup.py').read_text())
    [of_pip] = [
        ast.literal_eval(node.value)
        for node in setup.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'COMMANDS'
    ]
    expected = {name if name == 'vla_node' else name.removeprefix('vla_') for name in of_pip}
    found = {file.name: file for file in (INSTALLED / 'lib' / 'vla_ros').iterdir()}
    if set(found) != expected:
        raise Fault(f'commands: {", ".join(sorted(found))}; expected {", ".join(sorted(expected))}')
    # A node has no --help: it is refused a parameter.
    node = found.pop('vla_node')
    refused = in_workspace([str(node), '--ros-args', '-p', 'no_such:=1'], returncode=2)
    if 'no_such' not in refused:
        raise Fault(f'the node does not tell of an unknown parameter, but: {refused}')
    for name, file in found.items():
        if not in_workspace([str(file), '--help']).startswith('usage:'):
            raise Fault(f'{name} --help prints no usage')
    return len(expected)


def check_launch() -> None:
    """Have ``ros2 launch`` read the installed launch files and start the node, where there is one.

    :raises Fault: if it can't, or if the node does not act.
    """
    if shutil.which('ros2', path=environment()['PATH']) is None:
        return
    for file in sources('launch'):
        arguments = in_workspace(['ros2', 'launch', 'vla_ros', file.name, '--show-args'])
        if "'params_file'" not in arguments:
            raise Fault(f'{file}: ros2 launch --show-args lists no params_file: {arguments}')
    image = min(ROOT.glob('test/golden/images/*.png'))
    string = ['std_msgs/msg/String', '{data: pick up the cup}']
    with (
        started(['ros2', 'launch', 'vla_ros', 'vla.launch.py', 'model:=scripted']),
        started(['ros2', 'run', 'vla_ros', 'camera', str(image)]),
        # Again and again: one that was sent before the node had loaded is too old for it.
        started(['ros2', 'topic', 'pub', '--rate', '1', '/instruction', *string]),
    ):
        echo = ['ros2', 'topic', 'echo', '--once', '/action', 'vla_ros/msg/VlaAction']
        action = in_workspace(echo)
    if 'valid_until' not in action:
        raise Fault(f'the node under ros2 launch publishes no action, but: {action}')


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[None]:
    """Run a command beside the block, and end it with Ctrl-C.

    :raises Fault: if it does not end within END_LIMIT_S.
    """
    log = WORKSPACE / f'{command[1]}.log'
    with log.open('w') as output:
        process = subprocess.Popen(
            sourced(command),
            cwd=WORKSPACE,
            env=environment() | GRAPH,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Fault(f'{" ".join(command[:3])} did not end after Ctrl-C; see {log}') from None


def sourced(command: Iterable[str]) -> list[str]:
    """Return a command that runs after the workspace's setup.sh."""
    script = f'. {WORKSPACE / "install" / "setup.sh"} && exec "$@"'
    return ['sh', '-c', script, 'sh', *command]


def in_workspace(command: Iterable[str], returncode: int = 0) -> str:
    """Return what a command prints after the workspace's setup.sh.

    :raises Fault: if it ends with another return code, or not within COMMAND_LIMIT_S.
    """
    words = sourced(command)
    name = ' '.join(words[4:6])
    try:
        done = subprocess.run(
            words,
            cwd=WORKSPACE,
            env=environment() | GRAPH,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise Fault(f'{name} did not end within {COMMAND_LIMIT_S:g} s') from None
    if done.returncode != returncode:
        raise Fault(f'{name} ended with {done.returncode}, not {returncode}:\n{done.stdout}')
    return done.stdout


def run_tests() -> None:
    """Run some tests, with the messages of the build.

    :raises Fault: if one fails.
    """
    chosen = {'PYTEST_ADDOPTS': f"-k '{' or '.join(FILES)}'"}
    colcon('test', '--return-code-on-test-failure', '--ctest-args', '-R', CTEST, **chosen)
    results = WORKSPACE / 'build' / 'vla_ros' / 'test_results' / 'vla_ros' / 'ros.xunit.xml'
    if not results.is_file():
        raise Fault(f'colcon test ran no test: {results} is missing')


if __name__ == '__main__':
    sys.exit(main())
