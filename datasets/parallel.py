"""Many logs on many cores: results as they come, in bounded memory, with a bar that says how long it will take."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from drive_wm.types import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")
Step = Callable[[int, int], None]
ENGINES = ("local", "ray")
AHEAD = 2  # jobs a worker that wait with it, so that it never idles and a failure stops soon


def worker_count(workers: int) -> int:
    """The number asked for, or one for each core that this process may use where it is 0. Raises InputError."""
    if workers < 0:
        raise InputError(f"workers {workers}: expected 1 or more, or 0 for one a core")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers or cores


def in_parallel(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int,
                engine: str = "local") -> Iterator[tuple[int, Result]]:
    """(index of the job, its result) as they are done, in any order. One worker works in this process.

    engine: "local" processes, or "ray": tasks of one core each on the Ray cluster that RAY_ADDRESS names, or else on
    one of its own here; what they read and write has to lie where all its machines find it.

    The first job that fails raises here, and no more are begun; InputError where a worker died without a word. Workers
    end when this process does, however it ends. They import the main module anew: a script that calls this needs
    ``if __name__ == "__main__":``.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: expected {' or '.join(ENGINES)}")
    if engine == "ray":
        yield from _on_ray(function, jobs, workers)
        return
    if min(workers, len(jobs)) <= 1:
        yield from ((index, function(job)) for index, job in enumerate(jobs))
        return
    waiting, running = iter(enumerate(jobs)), dict[Future[Result], int]()
    fresh = multiprocessing.get_context("spawn")  # a fork has OpenCV's pool without its threads, and hangs
    with ProcessPoolExecutor(min(workers, len(jobs)), fresh, _begin) as pool:
        try:
            for _ in range(AHEAD * workers):
                _submit(pool, function, waiting, running)
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    index = running.pop(future)
                    _submit(pool, function, waiting, running)
                    yield index, future.result()
        except BrokenProcessPool as error:
            raise InputError("a worker process died: for want of memory, or because the script that asked for "
                             f"{workers} workers does so outside of if __name__ == \"__main__\":") from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def in_order(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int,
             progress: Step | None = None, engine: str = "local") -> list[Result]:
    """All results in the order of their jobs; progress: called with (jobs done, all jobs)."""
    results: dict[int, Result] = {}
    for index, result in in_parallel(function, jobs, workers, engine):
        results[index] = result
        if progress:
            progress(len(results), len(jobs))
    return [results[index] for index in range(len(jobs))]


def _on_ray(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Result]]:
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise InputError('--engine ray needs Ray: pip install "drive-wm[ray]"') from error

    here = os.getcwd()

    def one(job: Job) -> Result:
        import cv2

        os.chdir(here)
        cv2.setNumThreads(1)
        return function(job)

    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else workers, log_to_driver=False)
    try:
        task = ray.remote(max_retries=0)(one)
        waiting, running = iter(enumerate(jobs)), dict[Any, int]()
        while True:
            while len(running) < AHEAD * workers and (job := next(waiting, None)) is not None:
                running[task.remote(job[1])] = job[0]
            if not running:
                return
            done, _ = ray.wait(list(running))
            for future in done:
                yield running.pop(future), ray.get(future)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        if started:
            ray.shutdown()


def _submit(pool: ProcessPoolExecutor, function: Callable[[Job], Result], waiting: Iterator[tuple[int, Job]],
            running: dict[Future[Result], int]) -> None:
    job = next(waiting, None)
    if job is not None:
        running[pool.submit(function, job[1])] = job[0]


def _begin() -> None:
    """One thread a worker; an interrupt is the parent's to handle; without a parent there is nothing to work for."""
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def progress_bar(title: str, total: int, already: int = 0) -> Iterator[Step]:
    """Yields step(logs, frames); shows logs and camera frames a second of this run, and the time left, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    begun, made = time.monotonic(), [0, 0]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
               TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task: Any = bar.add_task(title, total=total, completed=already, rate="")

        def step(logs: int, frames: int) -> None:
            made[0], made[1] = made[0] + logs, made[1] + frames
            bar.update(task, advance=logs, rate=_rates(time.monotonic() - begun, made[0], made[1], total - already))

        yield step


def _rates(spent_s: float, logs: int, frames: int, total: int) -> str:
    left = round(spent_s / max(logs, 1) * (total - logs))
    shown = f"{logs / spent_s:.2f} logs/s  " + (f"{frames / spent_s:.0f} frames/s  " if frames else "")
    return f"{shown}{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
