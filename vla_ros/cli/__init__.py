# SPDX-License-Identifier: Apache-2.0
"""The commands: each file parses the options of one command and calls another room."""
