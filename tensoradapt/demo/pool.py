"""Many small jobs on the cores there are, with one progress bar.

The model of the demo is so small that a second thread makes its steps slower (measured: 10 ms a
step with one thread, 100 to 400 ms with two on a shared machine), whereas a second process
doubles what is done. So every job runs with one thread, in a process of its own or, with one
worker, in this one; the results are the same.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Result = TypeVar("Result")


class Pool:
    """Workers for the jobs of the demo; a context manager.

    Parameters
    ----------
    n_workers : int
        The number of processes; with 1, jobs run in this process.
    console : Console
        Where the progress bars go; nothing is written unless it is a terminal.
    """

    def __init__(self, n_workers: int, console: Console) -> None:
        self._console = console
        self._executor = (
            ProcessPoolExecutor(
                n_workers,
                mp_context=multiprocessing.get_context("spawn"),  # torch does not survive a fork
                initializer=torch.set_num_threads,
                initargs=(1,),
            )
            if n_workers > 1
            else None
        )

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def run(self, title: str, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run jobs and return their results in the order of the jobs.

        Parameters
        ----------
        title : str
            Stands before the progress bar.
        jobs : sequence of callables
            Without arguments; they and their results must be picklable.
        """
        with self._progress() as progress:
            task = progress.add_task(title, total=len(jobs))
            if self._executor is None:
                with _one_thread():
                    return [job() for job in progress.track(jobs, total=len(jobs), task_id=task)]
            futures: list[Future[Result]] = [self._executor.submit(job) for job in jobs]
            for future in as_completed(futures):
                future.result()  # a job's error ends the run at once
                progress.advance(task)
            return [future.result() for future in futures]

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )


def usable_cores() -> int:
    """Count the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # a container may be given fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
