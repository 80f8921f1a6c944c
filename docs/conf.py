# SPDX-License-Identifier: Apache-2.0
"""Configuration of Sphinx for the documentation site; ``make docs`` builds it.

Pages are Markdown that reads well on a forge, too. index.rst has the order of the pages, and the
map of them is README.md of this folder. Nothing is fetched from a network.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = 'vla_ros'
author = 'the authors of vla_ros'
copyright = '2026, ' + author
MANIFEST = ROOT / 'package.xml'
if MANIFEST.exists():  # rosdoc2 copies this folder and says the version itself
    version = release = ElementTree.parse(MANIFEST).getroot().findtext('version') or ''

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.viewcode',
]
if importlib.util.find_spec('sphinx_copybutton'):  # rosdoc2 has no such button
    extensions.append('sphinx_copybutton')
exclude_patterns = ['README.md', '_build']
nitpicky = False  # links of Markdown are checked anyway; types of torch and rclpy lead nowhere here

# Markdown: headings are targets, as on a forge.
myst_heading_anchors = 4
myst_links_external_new_tab = False

# The Python API: neither ROS nor PyTorch is needed to read its docstrings.
autodoc_mock_imports = [
    'PIL',
    'accelerate',
    'action_msgs',
    'builtin_interfaces',
    'cv2',
    'cv_bridge',
    'diagnostic_msgs',
    'geometry_msgs',
    'huggingface_hub',
    'lifecycle_msgs',
    'msgpack',
    'rcl_interfaces',
    'rclpy',
    'rosgraph_msgs',
    'safetensors',
    'sensor_msgs',
    'simplejpeg',
    'std_msgs',
    'std_srvs',
    'timm',
    'tokenizers',
    'torch',
    'torchvision',
    'tqdm',
    'trajectory_msgs',
    'vla_ros.action',
    'vla_ros.msg',
    'websockets',
]
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

html_theme = 'furo'
html_title = f'vla_ros {release}' if MANIFEST.exists() else 'vla_ros'
html_static_path = ['_static']
html_css_files = ['site.css']
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = '.linenos, .gp, .go, .c1'  # not the comments behind commands


def setup(app: Sphinx) -> None:
    """Sphinx calls this once."""
    app.connect('source-read', take_in_contributing)
    app.connect('source-read', name_files_outside)
    app.connect('source-read', list_all_pages)


def take_in_contributing(app: Sphinx, page: str, content: list[str]) -> None:
    """Show CONTRIBUTING.md, which a forge looks for beside this folder."""
    file = ROOT / 'CONTRIBUTING.md'
    if page == 'contributing' and file.exists():
        text = re.sub(r'\]\((?!docs/|https?:|#)', '](../', file.read_text(encoding='utf-8'))
        content[0] = text.replace('](docs/', '](')


def name_files_outside(app: Sphinx, page: str, content: list[str]) -> None:
    """Name a linked file that is not of this site by its place in the source tree."""
    folder = (Path(app.srcdir) / page).parent

    def named(link: re.Match[str]) -> str:
        target = (folder / link['target']).resolve()
        if target.is_relative_to(app.srcdir) and target.name != 'README.md':
            return link[0]
        place = link['target'].lstrip('./')
        return f'`{place}`' if link['text'].strip('`') == place else f'{link["text"]} (`{place}`)'

    relative_link = r'(?<!!)\[(?P<text>[^]]*)\]\((?P<target>\.\.?/[^)#\s]*)\)'
    content[0] = re.sub(relative_link, named, content[0])


def list_all_pages(app: Sphinx, page: str, content: list[str]) -> None:
    """Let patterns of index.rst match nothing, and add the pages that none of them matches."""
    if page != 'index':
        return
    left = set(app.env.found_docs) - {page}
    lines = []
    for line in content[0].splitlines():
        pattern = line.strip()
        found = {name for name in left if Path(name).parent == Path(pattern).parent}
        found = {name for name in found if fnmatch(name, pattern)}
        left -= found
        if found or '*' not in line:
            lines.append(line)
    content[0] = '\n'.join([*lines, *(f'   {name}' for name in sorted(left))])
