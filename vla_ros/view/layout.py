# SPDX-License-Identifier: Apache-2.0
"""The layout of the operator's view, in pixels from its upper left corner."""

# The image is on the left, below the header; the action is to the right of it.
MARGIN = 16
HEADER = 108
SIDE = 448  # side of the image's square: OpenVLA's 224, twice
LEFT = 2 * MARGIN + SIDE  # left edge of the action
COLUMN = 440  # width of the action
SIZE = (LEFT + COLUMN + MARGIN, HEADER + SIDE + MARGIN)
