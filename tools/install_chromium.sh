#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The browser of the tests of the operator's page (test/web/test_page.py): Debian's Chromium, unless
# there is one. test/support/browser.py looks for the same names.
set -eu

for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
if [ -e '/Applications/Google Chrome.app' ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo 'The tests of the operator'"'"'s page need a browser: sudo apt-get install chromium' >&2
  exit 0
fi
echo '== chromium' >&2
apt-get update --quiet=2
DEBIAN_FRONTEND=noninteractive \
  apt-get install --quiet=2 --yes --no-install-recommends chromium fonts-dejavu-core >/dev/null
