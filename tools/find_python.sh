#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints the Python that .venv is to be made from, or says on stderr what to install.
#   tools/find_python.sh [candidate ...]
# Fit is a Python 3.10 to 3.13 that can make virtual environments and compile extension modules (our
# messages). Where ROS 2 is sourced, only the Python of that ROS 2 will do, of any version from 3.10.

if [ -n "$ROS_DISTRO" ] && [ -n "$AMENT_PREFIX_PATH" ]; then
  newest=99
  [ $# -gt 0 ] || set -- python3
else
  newest=13
  [ $# -gt 0 ] || set -- python3.12 python3.11 python3.10 python3.13 python3
fi

probe='
import os, sys, sysconfig
wrong = []
if not (3, 10) <= sys.version_info[:2] <= (3, int(sys.argv[1])):
    wrong.append("its version is %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    wrong.append("it has no venv (Debian, Ubuntu: python3-venv)")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    wrong.append("it has no headers (Debian, Ubuntu: python3-dev; Fedora: python3-devel)")
print("; ".join(wrong) or sys.executable)
sys.exit(bool(wrong))
'

reasons=
for candidate in "$@"; do
  command -v "$candidate" >/dev/null || continue
  # A version manager may have a name that no installed Python answers to: then it prints nothing.
  if answer=$("$candidate" -c "$probe" "$newest" 2>/dev/null); then
    echo "$answer"
    exit 0
  fi
  reasons="$reasons
  $candidate: ${answer:-it does not start (a version manager may not have chosen it: name its path)}"
done

cat >&2 <<END
No fit Python found (looked for: $*).$reasons
Needed: Python 3.10, 3.11, 3.12 or 3.13 with venv and headers, for instance
  sudo apt install python3 python3-venv python3-dev g++
or say which: make PYTHON=/path/to/python3
END
exit 1
