# SPDX-License-Identifier: Apache-2.0
"""What the tests share: tools that have no tests of their own."""
