"""TensorBoard events beside the metrics: every number of a line as a scalar of that name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


class EventLog:
    """Writes to `folder`. Without the tensorboard package it does nothing, and `problem` says so."""

    def __init__(self, folder: Path, *, last_step: int) -> None:
        self.problem: str | None = None
        self._writer = None
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            self.problem = "no TensorBoard events: the package tensorboard is not installed"
            return
        self._event, self._summary, self._session = Event, Summary, SessionLog
        self._writer = EventFileWriter(str(folder))
        if last_step:
            self.go_back(last_step)

    def go_back(self, last_step: int) -> None:
        """What was written beyond `last_step` is void."""
        if self._writer is not None:
            start = self._session(status=self._session.START)
            self._writer.add_event(self._event(session_log=start, step=last_step + 1, wall_time=time.time()))

    def append(self, line: dict[str, Any]) -> None:
        if self._writer is None:
            return
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in line.items() if key != "step"]
        event = self._event(summary=self._summary(value=values), step=line["step"], wall_time=time.time())
        self._writer.add_event(event)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
