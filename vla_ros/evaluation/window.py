# SPDX-License-Identifier: Apache-2.0
"""A window that shows images to the user, where there is a display.

Not every Python has tkinter, so it is imported when a window is opened. A window must be used by
the thread that opened it; on a Mac this must be the main thread.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Window:
    """A window with one image. Once the program or the user has closed it, it shows nothing.

    :param tkinter: the module.
    """

    def __init__(self, tkinter: Any, title: str) -> None:
        self._tkinter = tkinter
        self._root = tkinter.Tk()
        self._root.title(title)
        self._root.resizable(False, False)
        self._root.protocol('WM_DELETE_WINDOW', self.close)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._is_open = True

    def show(self, image: NDArray[np.uint8]) -> None:
        """Show an image, whose size becomes the window's.

        :param image: uint8 [H, W, 3] RGB.
        """
        if not self._is_open:
            return
        height, width, _ = image.shape
        pixels = b'P6 %d %d 255\n' % (width, height) + image.tobytes()
        try:
            self._photo = self._tkinter.PhotoImage(data=pixels, format='PPM')
            self._label.configure(image=self._photo)
            self._root.update()
        except self._tkinter.TclError:  # a window must not end a run
            self.close()

    def close(self) -> None:
        """Close the window, unless it is closed already."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(self._tkinter.TclError):
                self._root.destroy()


def open_window(title: str) -> Window | None:
    """Open a window; where that is impossible, print the reason and return None."""
    try:
        import tkinter
    except ImportError as error:
        print(f'no window: {error}; Ubuntu has tkinter in python3-tk')
        return None
    try:
        return Window(tkinter, title)
    except tkinter.TclError as error:
        print(f'no window: {error}')
        return None
