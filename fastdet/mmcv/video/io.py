"""Videos by OpenCV, as in ``mmcv.video.io``."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from ..image import imread
from ..utils.path import check_file_exist, mkdir_or_exist, scandir
from ..utils.progressbar import track_progress

__all__ = ["Cache", "VideoReader", "frames2video"]


class Cache:
    """The values that were put in last, at most ``capacity`` of them."""

    def __init__(self, capacity: int) -> None:
        if capacity <= 0:
            raise ValueError("capacity must be a positive integer")
        self._cache: OrderedDict[Any, Any] = OrderedDict()
        self._capacity = int(capacity)

    @property
    def capacity(self) -> int:
        """How many values there can be."""
        return self._capacity

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self._cache)

    def put(self, key: Any, val: Any) -> None:
        """Put a value in, unless there is one; the oldest goes if there is no room."""
        if key in self._cache:
            return
        if len(self._cache) >= self.capacity:
            self._cache.popitem(last=False)
        self._cache[key] = val

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of a key."""
        return self._cache.get(key, default)


class VideoReader:
    """A video as a sequence of frames ``[H, W, 3]`` in BGR.

    Args:
        filename: the file, or a URL that OpenCV opens.
        cache_capacity: how many decoded frames are kept.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, filename: str, cache_capacity: int = 10) -> None:
        if not filename.startswith(("https://", "http://")):
            check_file_exist(filename, "Video file not found: {}")
        self._vcap = cv2.VideoCapture(filename)
        if cache_capacity <= 0:
            raise ValueError(f"cache_capacity must be positive, got {cache_capacity}")
        self._cache = Cache(cache_capacity)
        self._position = 0
        self._width = int(self._vcap.get(cv2.CAP_PROP_FRAME_WIDTH))
        self._height = int(self._vcap.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self._fps = self._vcap.get(cv2.CAP_PROP_FPS)
        self._frame_cnt = int(self._vcap.get(cv2.CAP_PROP_FRAME_COUNT))
        self._fourcc = self._vcap.get(cv2.CAP_PROP_FOURCC)

    @property
    def vcap(self) -> cv2.VideoCapture:
        """OpenCV's reader."""
        return self._vcap

    @property
    def opened(self) -> bool:
        """Whether the video could be opened."""
        return self._vcap.isOpened()

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self._width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self._height

    @property
    def resolution(self) -> tuple[int, int]:
        """``(width, height)``."""
        return self._width, self._height

    @property
    def fps(self) -> float:
        """Frames in a second."""
        return self._fps

    @property
    def frame_cnt(self) -> int:
        """Number of frames."""
        return self._frame_cnt

    @property
    def fourcc(self) -> float:
        """The codec's code."""
        return self._fourcc

    @property
    def position(self) -> int:
        """Index of the frame that :meth:`read` gives next."""
        return self._position

    def _real_position(self) -> int:
        return round(self._vcap.get(cv2.CAP_PROP_POS_FRAMES))

    def _seek(self, frame_id: int) -> None:
        self._vcap.set(cv2.CAP_PROP_POS_FRAMES, frame_id)
        # Codecs seek to a key frame at or before the one that was asked for.
        for _ in range(frame_id - self._real_position()):
            self._vcap.read()
        self._position = frame_id

    def read(self) -> np.ndarray | None:
        """The next frame; ``None`` at the end."""
        img = self._cache.get(self._position)
        if img is None:
            if self._position != self._real_position():
                self._seek(self._position)
            done, img = self._vcap.read()
            if not done:
                return None
            self._cache.put(self._position, img)
        self._position += 1
        return img

    def get_frame(self, frame_id: int) -> np.ndarray | None:
        """The frame of an index.

        Raises:
            IndexError: there is no such frame.
        """
        if not 0 <= frame_id < self._frame_cnt:
            raise IndexError(f'"frame_id" must be between 0 and {self._frame_cnt - 1}')
        self._position = frame_id
        return self.read()

    def current_frame(self) -> np.ndarray | None:
        """The frame that was read last; ``None`` before the first."""
        return None if self._position == 0 else self._cache.get(self._position - 1)

    def cvt2frames(self, frame_dir: str, file_start: int = 0,
                   filename_tmpl: str = "{:06d}.jpg", start: int = 0, max_num: int = 0,
                   show_progress: bool = True) -> None:
        """Write frames as images.

        Args:
            frame_dir: the folder.
            file_start: number of the first file.
            filename_tmpl: names of the files by number.
            start: index of the first frame.
            max_num: how many frames; 0 for all.
            show_progress: show a progress bar.
        """
        mkdir_or_exist(frame_dir)
        number = min(self.frame_cnt - start, max_num) if max_num else self.frame_cnt - start
        if number <= 0:
            raise ValueError(f"start must be less than the {self.frame_cnt} frames, got {start}")
        if start > 0:
            self._seek(start)

        def write(index: int) -> None:
            img = self.read()
            if img is not None:
                cv2.imwrite(os.path.join(frame_dir, filename_tmpl.format(index)), img)

        indices = range(file_start, file_start + number)
        if show_progress:
            track_progress(write, indices)
        else:
            for index in indices:
                write(index)

    def __len__(self) -> int:
        return self.frame_cnt

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self.get_frame(i) for i in range(*index.indices(self.frame_cnt))]
        if index < 0:
            index += self.frame_cnt
            if index < 0:
                raise IndexError("index out of range")
        return self.get_frame(index)

    def __iter__(self) -> Iterator[np.ndarray]:
        self._seek(0)
        return self

    def __next__(self) -> np.ndarray:
        img = self.read()
        if img is None:
            raise StopIteration
        return img

    next = __next__

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self._vcap.release()


def frames2video(frame_dir: str, video_file: str, fps: float = 30, fourcc: str = "XVID",
                 filename_tmpl: str = "{:06d}.jpg", start: int = 0, end: int = 0,
                 show_progress: bool = True) -> None:
    """Make a video of images.

    Args:
        frame_dir: the images' folder.
        video_file: the file to write.
        fps: frames in a second.
        fourcc: four letters of the codec.
        filename_tmpl: names of the images by number.
        start: the first number.
        end: the number after the last; as many as there are files by default.
        show_progress: show a progress bar.
    """
    if end == 0:
        ending = filename_tmpl.split(".")[-1]
        end = len(list(scandir(frame_dir, ending)))
    first = os.path.join(frame_dir, filename_tmpl.format(start))
    check_file_exist(first, "The start frame not found: {}")
    height, width = imread(first).shape[:2]
    writer = cv2.VideoWriter(video_file, cv2.VideoWriter.fourcc(*fourcc), fps, (width, height))

    def write(index: int) -> None:
        writer.write(imread(os.path.join(frame_dir, filename_tmpl.format(index))))

    if show_progress:
        track_progress(write, range(start, end))
    else:
        for index in range(start, end):
            write(index)
    writer.release()
