"""Where things stand in the operator's view, in pixels from its upper left corner."""

# The picture stands on the left, below the header; the action on its right.
MARGIN = 16
HEADER = 108
SIDE = 448  # of the square for the picture: OpenVLA's 224, twice
LEFT = 2 * MARGIN + SIDE  # of the action
COLUMN = 440  # the action's width
SIZE = (LEFT + COLUMN + MARGIN, HEADER + SIDE + MARGIN)
