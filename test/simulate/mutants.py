# SPDX-License-Identifier: Apache-2.0
"""Plants mistakes into the node, one at a time, and asks the simulation whether it finds them.

``python -m simulate.mutants --count 200 --seed 1`` draws mechanical ones over ``FILES``;
``--planted`` takes those of ``planted.py``. Each is applied to a copy of the package in a temporary
folder and run against seeds until a violation is found, or there are no more seeds. What survives
is printed with its difference.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from simulate.planted import PLANTED

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    'vla_ros/clock.py',
    'vla_ros/ros/cameras.py',
    'vla_ros/ros/instructions.py',
    'vla_ros/ros/observations.py',
    'vla_ros/ros/robot.py',
    'vla_ros/ros/robot_session.py',
    'vla_ros/ros/configuration.py',
    'vla_ros/ros/node.py',
    'vla_ros/ros/switches.py',
    'vla_ros/ros/output.py',
    'vla_ros/ros/action_output.py',
    'vla_ros/ros/motion_output.py',
    'vla_ros/ros/stream.py',
    'vla_ros/scheduling/assembly.py',
    'vla_ros/scheduling/slot.py',
    'vla_ros/scheduling/worker.py',
    'vla_ros/scheduling/gate.py',
    'vla_ros/scheduling/inference.py',
    'vla_ros/scheduling/camera.py',
    'vla_ros/scheduling/clock.py',
    'vla_ros/motion/gripper.py',
    'vla_ros/motion/motion.py',
    'vla_ros/motion/profile.py',
)
_SEEDS = '0-99'
_MOST_S = 600.0  # of one mutant

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """
    :param name: what was done, and where.
    :param old, new: the whole file.
    """

    name: str
    file: str
    old: str
    new: str

    @property
    def difference(self) -> str:
        lines = difflib.unified_diff(self.old.splitlines(), self.new.splitlines(), lineterm='', n=1)
        return '\n'.join(list(lines)[2:])


@dataclass(frozen=True)
class Verdict:
    """
    :param found: the first violation, or what else ended it; empty: it survives.
    """

    mutant: Mutant
    found: str
    real_s: float


# -- mechanical mistakes ---------------------------------------------------------------------------

Change = Callable[[ast.AST], ast.AST | None]


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """All nodes that may change: parent, field, index, node. No annotations and no texts."""
    for parent in ast.walk(tree):
        if isinstance(parent, (ast.JoinedStr, ast.AnnAssign, ast.arguments)):
            continue
        for field, value in ast.iter_fields(parent):
            if field in ('annotation', 'returns', 'decorator_list', 'bases'):
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(node, ast.AST):
                    yield parent, field, index, node


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """All ways in which a node may be wrong, each with its name; None: deleted."""
    if isinstance(node, ast.Compare):
        yield 'comparison', _with(node, ops=[_COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _ARITHMETIC:
        yield 'arithmetic', _with(node, op=_ARITHMETIC[type(node.op)]())
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield 'boolean operator', _with(node, op=other)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield 'removed not', node.operand
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield 'removed minus', node.operand
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield 'negated condition', _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node)
    elif isinstance(node, ast.Call) and len(node.args) >= 2:
        yield 'swapped arguments', _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        yield 'deleted statement', None
    if isinstance(node, (ast.Assign, ast.AugAssign)) and _sets_attribute(node):
        yield 'deleted statement', None
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield 'deleted statement', ast.Return(None)


def _other_constants(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node.value, bool):
        yield 'constant', ast.Constant(not node.value)
    elif isinstance(node.value, (int, float)):
        yield 'constant', ast.Constant(node.value + 1)
        yield 'constant', ast.Constant(node.value - 1)


def _sets_attribute(node: ast.Assign | ast.AugAssign) -> bool:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return isinstance(target, (ast.Attribute, ast.Subscript))


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def mutants_of(file: str) -> list[Mutant]:
    """Every mechanical mistake in a file."""
    tree = ast.parse((ROOT / file).read_text())
    plain = ast.unparse(tree)
    mutants = []
    for parent, field, index, node in list(_places(tree)):
        for kind, changed in _changes(node):
            with _replaced(parent, field, index, changed):
                new = ast.unparse(ast.fix_missing_locations(tree))
            if new != plain:
                line = getattr(node, 'lineno', 0)
                mutants.append(Mutant(f'{file}:{line}: {kind}', file, plain, new))
    return mutants


class _replaced:
    """A node of a tree is another one for a while."""

    def __init__(
        self, parent: ast.AST, field: str, index: int | None, node: ast.AST | None
    ) -> None:
        self._parent, self._field, self._index = parent, field, index
        self._node = ast.Pass() if node is None else node
        self._before: object = None

    def __enter__(self) -> None:
        self._before, self._node = self._swap(self._node), self._node

    def __exit__(self, *_: object) -> None:
        self._swap(self._before)

    def _swap(self, node: object) -> object:
        if self._index is None:
            before = getattr(self._parent, self._field)
            setattr(self._parent, self._field, node)
            return before
        nodes = getattr(self._parent, self._field)
        before, nodes[self._index] = nodes[self._index], node
        return before


def draw(count: int, seed: int) -> list[Mutant]:
    """Mechanical mistakes over all files: each file equally often, as far as it has enough."""
    random = Random(f'mutants/{seed}')
    by_file = [mutants_of(file) for file in FILES]
    for mutants in by_file:
        random.shuffle(mutants)
    drawn: list[Mutant] = []
    while len(drawn) < count and any(by_file):
        for mutants in by_file:
            if mutants and len(drawn) < count:
                drawn.append(mutants.pop())
    return drawn


def planted() -> list[Mutant]:
    """Those of ``planted.py``."""
    mutants = []
    for one in PLANTED:
        old = (ROOT / one.file).read_text()
        assert old.count(one.old) == 1, f'{one.name}: {old.count(one.old)} places in {one.file}'
        mutants.append(Mutant(one.name, one.file, old, old.replace(one.old, one.new)))
    return mutants


# -- running them ----------------------------------------------------------------------------------


def try_out(mutant: Mutant, simulation: Path, seeds: str) -> Verdict:
    """Run the seeds on a copy of the package with the mistake in it.

    :param simulation: the folder that has the package ``simulate``.
    """
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='vla_ros_mutant_') as folder:
        _copy(ROOT / 'vla_ros', Path(folder) / 'vla_ros')
        (Path(folder) / mutant.file).write_text(mutant.new)
        found = _run(folder, simulation, seeds)
    return Verdict(mutant, found, time.monotonic() - started_s)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))


def _run(folder: str, simulation: Path, seeds: str) -> str:
    path = os.pathsep.join([folder, str(simulation), os.environ.get('PYTHONPATH', '')])
    try:
        ended = subprocess.run(
            [sys.executable, '-m', 'simulate.run', seeds, '--first'],
            cwd=folder,
            env={**os.environ, 'PYTHONPATH': path},
            capture_output=True,
            text=True,
            timeout=_MOST_S,
        )
    except subprocess.TimeoutExpired:
        return f'it takes longer than {_MOST_S:g} s'
    if ended.returncode == 0:
        return ''
    lines = ended.stdout.splitlines()
    if not lines:
        return f'it breaks the simulation: {ended.stderr.strip()[-200:]}'
    return f'{lines[0].partition(":")[0]}: {" ".join(line.strip() for line in lines[1:2])}'


def _report(verdict: Verdict) -> None:
    name = verdict.mutant.name
    if verdict.found:
        print(f'found     {name}: {verdict.found[:150]}', flush=True)
    else:
        print(f'SURVIVED  {name} ({verdict.real_s:.0f} s)', flush=True)
        print(verdict.mutant.difference, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='mutants', description=__doc__)
    parser.add_argument('--count', type=int, default=200, help='mechanical mistakes')
    parser.add_argument('--seed', type=int, default=1, help='which of them')
    parser.add_argument('--planted', action='store_true', help='those written by hand instead')
    parser.add_argument('--seeds', default=_SEEDS, help='of the simulation')
    parser.add_argument('--jobs', type=int, default=os.cpu_count())
    parser.add_argument('--only', default='', help='a part of the name')
    options = parser.parse_args(arguments)
    mutants = planted() if options.planted else draw(options.count, options.seed)
    mutants = [mutant for mutant in mutants if options.only in mutant.name]
    print(f'{len(mutants)} mistakes, drawn by seed {options.seed}; seeds {options.seeds}')
    survived = 0
    with tempfile.TemporaryDirectory() as simulation, ThreadPoolExecutor(options.jobs) as pool:
        for name in ('simulate', 'support'):  # as they are now
            _copy(ROOT / 'test' / name, Path(simulation) / name)
        verdicts = pool.map(lambda one: try_out(one, Path(simulation), options.seeds), mutants)
        for verdict in verdicts:
            survived += not verdict.found
            _report(verdict)
    found = len(mutants) - survived
    print(f'{found} of {len(mutants)} found, {100 * found / max(1, len(mutants)):.0f} %')
    return 0


if __name__ == '__main__':
    sys.exit(main())
