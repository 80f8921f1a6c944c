# SPDX-License-Identifier: Apache-2.0
"""package.xml declares what the sources import and what CMake looks for, and nothing more."""

from __future__ import annotations

import ast
import re
import sys
from xml.etree import ElementTree

from catkin_pkg.package import parse_package

from support.places import ROOT

MANIFEST = ROOT / 'package.xml'

# Modules that have another name in package.xml: rosdep's keys.
KEYS = {
    'PIL': 'python3-pil',
    'aiohttp': 'python3-aiohttp',
    'catkin_pkg': 'python3-catkin-pkg',
    'cv2': 'python3-opencv',
    'huggingface_hub': 'python3-huggingface-hub-pip',
    'lz4': 'python3-lz4',
    'matplotlib': 'python3-matplotlib',
    'msgpack': 'python3-msgpack',
    'numpy': 'python3-numpy',
    'packaging': 'python3-packaging',
    'pytest': 'python3-pytest',
    'rosbags': 'python3-rosbags-pip',
    'skimage': 'python3-skimage',
    'timm': 'python3-timm-pip',
    'torch': 'python3-pytorch-pip',
    'tqdm': 'python3-tqdm',
    'transformers': 'python3-transformers-pip',
    'yaml': 'python3-yaml',
}
# Modules for which rosdep has no key; requirements/ has their versions.
WITHOUT_KEY = {'backports', 'compression', 'peft', 'safetensors', 'simplejpeg', 'tokenizers'}
WITHOUT_KEY |= {'websockets'}  # rosdep's is too old
WITHOUT_KEY |= {'openpi_client', 'playwright', 'ray', 'rerun', 'vla_eval'}
OURS = {'generate_reference', 'simulate', 'support', 'training', 'vla_ros'}
# Declared, and neither imported nor looked for.
BROUGHT_ALONG = {
    'action_msgs',  # of the generated Python of our actions
    'python3-transformers-pip',  # brings tokenizers and safetensors
    'rosidl_default_runtime',
}
LINTERS = {'ament_flake8', 'ament_pep257', 'ament_xmllint'}  # run by tools/lint_ament.py


def imported(folder: str) -> set[str]:
    """What a folder imports that is neither Python's nor ours, under its name in package.xml."""
    found = set()
    for file in (ROOT / folder).rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    modules = {name.partition('.')[0] for name in found} - sys.stdlib_module_names - OURS
    return {KEYS.get(name, name) for name in modules - WITHOUT_KEY}


def declared(*kinds: str) -> set[str]:
    root = ElementTree.parse(MANIFEST).getroot()
    return {str(one.text) for kind in kinds for one in root.findall(kind)}


def test_it_is_valid_and_complete() -> None:
    warnings: list[str] = []
    package = parse_package(str(MANIFEST), warnings=warnings)
    assert not warnings
    package.validate()
    assert package.package_format == 3 and package.licenses == ['Apache-2.0']
    assert package.maintainers and package.authors and package.get_build_type() == 'ament_cmake'


def test_every_import_is_declared() -> None:
    for_users = declared('depend', 'exec_depend')
    assert imported('vla_ros') | imported('launch') <= for_users
    assert imported('test') <= for_users | declared('test_depend')


def test_everything_that_cmake_finds_is_declared() -> None:
    found = set(re.findall(r'find_package\((\w+)', (ROOT / 'CMakeLists.txt').read_text()))
    assert found <= declared('depend', 'buildtool_depend', 'test_depend')


def test_nothing_is_declared_in_vain() -> None:
    found = set(re.findall(r'find_package\((\w+)', (ROOT / 'CMakeLists.txt').read_text()))
    used = found | imported('vla_ros') | imported('launch') | imported('test')
    kinds = ('depend', 'buildtool_depend', 'exec_depend', 'test_depend')
    assert declared(*kinds) == used | BROUGHT_ALONG | LINTERS
    assert declared('exec_depend') & declared('depend') == set()


def test_every_interface_is_built() -> None:
    text = (ROOT / 'CMakeLists.txt').read_text()
    listed = re.findall(r'^  ((?:msg|srv|action)/\w+\.\w+)', text, re.MULTILINE)
    files = [file for kind in ('msg', 'srv', 'action') for file in (ROOT / kind).glob('*')]
    assert sorted(listed) == sorted(str(file.relative_to(ROOT)) for file in files)
