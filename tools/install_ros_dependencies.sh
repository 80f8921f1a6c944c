#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what this package needs beside a sourced ROS 2 on Ubuntu or Debian.
#   tools/install_ros_dependencies.sh [VENV]
# From apt: compilers, colcon, OpenGL without a screen, and what package.xml asks for (rosdep). With
# VENV also from PyPI: PyTorch and the other packages of requirements/runtime.txt, into that virtual
# environment, which colcon then ignores. (`make setup` makes .venv by itself.)
set -eu

if [ -z "${ROS_DISTRO:-}" ]; then
  echo 'No ROS 2 is sourced: source /opt/ros/DISTRIBUTION/setup.bash first.' >&2
  exit 1
fi
source=$(cd "$(dirname "$0")/.." && pwd)
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo

$as_root apt-get update
$as_root apt-get install -y --no-install-recommends \
  g++ make python3-colcon-common-extensions python3-dev python3-rosdep python3-venv \
  libegl1 libegl-mesa0 libgl1-mesa-dri

[ -e /etc/ros/rosdep/sources.list.d/20-default.list ] || $as_root rosdep init
rosdep update --rosdistro "$ROS_DISTRO"
# rosdep installs these keys with pip for the whole system; their versions are in requirements/.
from_pip=$(sed -n 's:.*<exec_depend>\(.*-pip\)</exec_depend>.*:\1:p' "$source/package.xml" | tr '\n' ' ')
rosdep install --rosdistro "$ROS_DISTRO" --from-paths "$source" --ignore-src -y \
  --skip-keys "$from_pip"

[ $# -gt 0 ] || exit 0
python3 -m venv --system-site-packages "$1"
touch "$1/COLCON_IGNORE"
# The cv_bridge of this ROS 2 was compiled for its NumPy. Another one could not be imported beside it.
numpy=$(python3 -c 'import numpy; print("numpy<%d" % (int(numpy.__version__.split(".")[0]) + 1))')
"$1/bin/pip" install "$numpy" -r "$source/requirements/runtime.txt"
