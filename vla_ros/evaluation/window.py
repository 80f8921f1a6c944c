"""A window in which a person looks on, where there is a display. Nothing depends on it.

tkinter is imported when a window is opened: not every Python has it. One thread, the one that
opened it; on a Mac, the main one.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Window:
    """Closed by its owner or by the person, whoever comes first; then it shows nothing.

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
        """
        :param image: uint8 [H, W, 3] RGB; its size is the window's.
        """
        if not self._is_open:
            return
        height, width, _ = image.shape
        pixels = b'P6 %d %d 255\n' % (width, height) + image.tobytes()
        try:
            self._photo = self._tkinter.PhotoImage(data=pixels, format='PPM')
            self._label.configure(image=self._photo)
            self._root.update()
        except self._tkinter.TclError:  # what is only looked at ends no run
            self.close()

    def close(self) -> None:
        """May be called again."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(self._tkinter.TclError):
                self._root.destroy()


def open_window(title: str) -> Window | None:
    """
    :returns: None where there can be no window; says why.
    """
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
