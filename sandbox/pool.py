"""The host's side: jobs in, results out, in order, whatever happens to the containers in between."""

from __future__ import annotations

import concurrent.futures
import itertools
import re
import selectors
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from sandbox import answers, owner
from sandbox.client import connect
from sandbox.container import Container, Gone, Settings, preload_of
from sandbox.errors import SandboxError
from sandbox.protocol import PythonJob, Result, SqlJob
from sandbox.runner import wire
from sandbox.runner.supervisor import STRETCH

Job = SqlJob | PythonJob

AHEAD = 1000  # jobs a worker may be ahead of the consumer
AHEAD_BYTES = 256 << 20  # results that wait for the consumer
FRAMES_AHEAD = 2  # batches on their way to a container, so that it never waits for us
BATCH_SECONDS = 0.03  # what a batch should take
BATCH_JOBS, BATCH_BYTES = 256, 1 << 20
SILENCE_SECONDS = 15.0  # beyond all deadlines of what it has to do: a container that says nothing is dead
START_TRIES = 4
START_PAUSES = (0.0, 1.0, 3.0, 8.0)


@dataclass(eq=False)
class Ticket:
    """A job on its way through the pool."""

    job: Job
    attempts: int = 0
    alone: bool = False  # it was there when a container died: give it a batch of its own
    result: Result | None = None


@dataclass(eq=False)
class Worker:
    """One of the pool's places: a container, what it has to answer, and how long it has been silent."""

    index: int
    container: Container | None = None
    starting: concurrent.futures.Future[Container] | None = None
    batches: deque[OrderedDict[int, Ticket]] = field(default_factory=deque)
    heard: float = 0.0
    programs: int = 0

    def patience(self) -> float:
        longest = max((t.job.timeout_seconds for batch in self.batches for t in batch.values()), default=0.0)
        return (STRETCH + 1) * longest + SILENCE_SECONDS


class Pool:
    """Warm containers for jobs from one process. A context manager: its containers end with it.

    `databases` maps sha256 digests to SQLite files; they travel over the protocol, so the daemon may be anywhere.
    With `data_mount`, databases under that directory are read from a read-only mount instead (a local daemon only).
    A container is replaced when it is unfit and after `recycle_after` programs. Raises SandboxError.
    """

    def __init__(
        self,
        *,
        image: str,
        workers: int,
        databases: Mapping[str, Path] | None = None,
        run: str = "adhoc",
        memory_mb: int = 512,
        pids: int = 128,
        runtime: str | None = None,
        retries: int = 2,
        recycle_after: int = 5000,
        data_mount: Path | None = None,
        database_mb: int = 1024,
    ) -> None:
        if workers < 1:
            raise SandboxError(f"workers={workers}: a pool needs at least one; the number of CPU cores is a good choice")
        if pids < 32:
            raise SandboxError(f"pids={pids}: the runner and a program that starts threads need 32 or more")
        self.client = connect()
        self.retries, self.recycle_after = retries, recycle_after
        self.closed = False
        self.replaced: list[str] = []  # why containers were replaced, in order
        self.turn = threading.Lock()
        self.turn_thread = 0
        self.tokens = itertools.count(1)
        self.names = itertools.count(1)
        self.pace = {PythonJob: 0.005, SqlJob: 0.001}  # seconds a job, a moving average
        self.settings = Settings(
            image=image,
            preload=preload_of(self.client, image),
            run=run,
            pool=uuid.uuid4().hex[:12],
            memory_mb=memory_mb,
            pids=pids,
            runtime=runtime,
            database_mb=(room := room_for(databases or {}, database_mb, data_mount)),
            everything_fits=room < database_mb,
            data_mount=data_mount,
            databases=dict(databases or {}),
        )
        owner.reap_orphans(self.client)
        self.selector = selectors.DefaultSelector()
        self.starter = concurrent.futures.ThreadPoolExecutor(max_workers=min(workers, 16), thread_name_prefix="sandbox")
        self.workers = [Worker(index) for index in range(workers)]
        try:
            for worker in self.workers:
                worker.starting = self.starter.submit(self.start, worker.index, 1)
            for worker in self.workers:
                self.settle(worker, wait=True)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove every container of this pool. Safe to call twice."""
        if self.closed:
            return
        self.closed = True
        for worker in self.workers:  # the runner sees its stdin end and goes by itself
            if worker.container is not None:
                worker.container.hang_up()
        self.starter.shutdown(wait=True, cancel_futures=True)
        self.selector.close()
        owner.remove_pool(self.client, self.settings.pool)
        self.client.close()

    def announce(self, databases: Mapping[str, Path]) -> None:
        """Add databases to those jobs may name. Raises SandboxError when one does not fit."""
        room_for(databases, self.settings.database_mb, self.settings.data_mount)
        self.settings.everything_fits = False
        self.settings.databases.update(databases)

    # containers

    def start(self, index: int, tries: int) -> Container:
        """Start a container, with patience for a daemon that is being restarted. Raises SandboxError."""
        run = re.sub(r"[^a-zA-Z0-9_.-]+", "-", self.settings.run)[:40]
        name = f"codelutra-{run}-{self.settings.pool}-{index}-{next(self.names)}"
        for attempt in range(tries):
            time.sleep(START_PAUSES[attempt])
            if self.closed and attempt:
                break
            try:
                return Container(self.client, self.settings, f"{name}-{attempt}", self.uid(index))
            except SandboxError as error:
                failure = error
        raise failure

    def uid(self, index: int) -> int:
        """A user id for the programs of one place, with two for its servants: process limits count per user and host."""
        return 10_000 + (int(self.settings.pool[:6], 16) + index) % 16_000 * 3

    def settle(self, worker: Worker, *, wait: bool = False) -> None:
        """Give a worker the container that was started for it, if it is there. Raises SandboxError."""
        if worker.starting is None or not (wait or worker.starting.done()):
            return
        worker.container, worker.starting = worker.starting.result(), None
        worker.heard, worker.programs = time.monotonic(), 0
        self.selector.register(worker.container, selectors.EVENT_READ, worker)

    def replace(self, worker: Worker, queue: deque[Ticket] | None, reason: str) -> None:
        """Remove a worker's container and start another. What it had not answered goes back to the front of the queue.

        Only the batch it was working on is suspect: those jobs are charged an attempt and go alone from now on.
        """
        container = worker.container
        if container is None:
            return
        self.replaced.append(reason)
        self.selector.unregister(container)
        container.hang_up()
        worker.container = None
        self.starter.submit(owner.remove, self.client, container.id)
        if not self.closed:
            worker.starting = self.starter.submit(self.start, worker.index, START_TRIES)
        unanswered = [list(batch.values()) for batch in worker.batches if batch]
        worker.batches.clear()
        if queue is None:
            return
        for place, batch in enumerate(unanswered):
            for ticket in batch:
                if place:
                    continue
                ticket.attempts += 1
                ticket.alone = True
                if ticket.attempts > self.retries:
                    error = f"the container died {ticket.attempts} times: {reason}"[-2000:]
                    ticket.result = Result(ticket.job.id, "infra_error", error=error, attempts=ticket.attempts)
        queue.extendleft(ticket for batch in reversed(unanswered) for ticket in reversed(batch) if ticket.result is None)

    # mapping

    def map(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Results in the order of the jobs, as they come. Takes jobs only so far ahead of the consumer.

        One map at a time: a second thread waits for the first. Raises SandboxError when containers cannot be had any
        more; a job that took its container down more than `retries` times is an `infra_error`.
        """
        if self.closed:
            raise SandboxError("the pool is closed; open another")
        if self.turn_thread == threading.get_ident() and self.turn.locked():
            raise SandboxError("this pool is already mapping in this thread; finish or close the other iterator first")
        with self.turn:
            self.turn_thread = threading.get_ident()
            try:
                yield from self.run(iter(jobs))
            finally:
                self.turn_thread = 0
                for worker in self.workers:  # answers nobody waits for: their tokens are forgotten
                    for batch in worker.batches:
                        batch.clear()

    def run(self, jobs: Iterator[Job]) -> Iterator[Result]:
        queue: deque[Ticket] = deque()
        order: deque[Ticket] = deque()
        waiting_bytes, exhausted, pumped = 0, False, 0.0
        while True:
            if self.closed:
                raise SandboxError("the pool was closed while it was mapping")
            limit = AHEAD * len(self.workers)
            while not exhausted and len(queue) < BATCH_JOBS and len(order) < limit and waiting_bytes < AHEAD_BYTES:
                job = next(jobs, None)
                if job is None:
                    exhausted = True
                    break
                ticket = Ticket(job, result=answers.refuse(job, self.settings.databases))
                order.append(ticket)
                if ticket.result is None:
                    queue.append(ticket)
            if not order:
                return
            head = order[0]
            now = time.monotonic()
            if head.result is None or now - pumped > BATCH_SECONDS / 10:
                waiting_bytes += self.pump(queue, 0.0 if head.result else 1.0)
                pumped = now
            while order and (result := order[0].result) is not None:
                order.popleft()
                waiting_bytes = max(0, waiting_bytes - answers.weight(result))
                yield result
                if time.monotonic() - pumped > BATCH_SECONDS / 10:
                    break

    def pump(self, queue: deque[Ticket], timeout: float) -> int:
        """Feed the containers, wait for news, take it in. Returns the weight of the results that came."""
        for worker in self.workers:
            self.settle(worker)
            self.feed(worker, queue)
        if any(worker.starting for worker in self.workers):
            timeout = min(timeout, 0.02)
        weight = 0
        events = self.selector.select(timeout) if self.selector.get_map() else []
        if not events and not self.selector.get_map():
            time.sleep(timeout)
        now = time.monotonic()
        for key, mask in events:
            worker = key.data
            try:
                if mask & selectors.EVENT_READ:
                    weight += self.take(worker, worker.container.receive())
                if worker.container.outbox:
                    worker.container.transmit()
                worker.heard = now
                self.watch(worker)
            except (Gone, wire.BrokenFrame) as reason:
                self.replace(worker, queue, str(reason))
        for worker in self.workers:
            if worker.container and worker.batches and now - worker.heard > worker.patience():
                self.replace(worker, queue, f"it was silent for {now - worker.heard:.0f} s")
        return weight

    def watch(self, worker: Worker) -> None:
        assert worker.container is not None
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.container.outbox else 0)
        self.selector.modify(worker.container, wanted, worker)

    def feed(self, worker: Worker, queue: deque[Ticket]) -> None:
        """Keep a container in work, or replace it when it has done its share."""
        container = worker.container
        if container is None:
            return
        if worker.programs >= self.recycle_after:
            if not any(worker.batches):
                self.replace(worker, queue, "recycled")
            return
        while queue and len(worker.batches) < FRAMES_AHEAD:
            batch = self.batch(queue)
            tokens = OrderedDict((next(self.tokens), ticket) for ticket in batch)
            queries = [(token, t.job) for token, t in tokens.items() if isinstance(t.job, SqlJob)]
            programs = [(token, t.job) for token, t in tokens.items() if isinstance(t.job, PythonJob)]
            if queries:
                container.need({job.database for _, job in queries})
                container.send(wire.SQL, answers.pack_queries(queries))
            else:
                container.send(wire.PYTHON, answers.pack_programs(programs))
                worker.programs += len(programs)
            if not worker.batches:
                worker.heard = time.monotonic()
            worker.batches.append(tokens)
        if container.outbox:
            try:
                container.transmit()
                self.watch(worker)
            except Gone as reason:
                self.replace(worker, queue, str(reason))

    def batch(self, queue: deque[Ticket]) -> list[Ticket]:
        """As many jobs of one kind from the front as should take BATCH_SECONDS, and whose databases fit together."""
        first = queue.popleft()
        batch, kind = [first], type(first.job)
        size, needed, room = answers.size(first.job), self.database_of(first.job), self.settings.database_mb << 20
        most = 1 if first.alone else max(1, min(BATCH_JOBS, int(BATCH_SECONDS / self.pace[kind])))
        while queue and len(batch) < most and size < BATCH_BYTES:
            if type(queue[0].job) is not kind or queue[0].alone:
                break
            needed |= self.database_of(queue[0].job)
            if len(needed) > 1 and sum(self.settings.databases[digest].stat().st_size for digest in needed) > room:
                break
            size += answers.size(queue[0].job)
            batch.append(queue.popleft())
        return batch

    def database_of(self, job: Job) -> set[str]:
        return {job.database} if isinstance(job, SqlJob) and not self.settings.everything_fits else set()

    def take(self, worker: Worker, frames: list[tuple[int, bytes]]) -> int:
        """Match answers with tickets. Raises Gone when the runner gives up."""
        weight = 0
        for kind, payload in frames:
            if kind == wire.FATAL:
                raise Gone(payload.decode("utf-8", "replace"))
            if kind != wire.RESULTS:
                raise Gone(f"an unexpected frame of kind {kind}")
            for record in wire.unpack_results(payload):
                ticket = next((b.pop(record.token) for b in worker.batches if record.token in b), None)
                if ticket is None:
                    continue
                ticket.result = answers.believe(ticket.job, record, ticket.attempts + 1)
                weight += answers.weight(ticket.result)
                pace = self.pace[type(ticket.job)]
                self.pace[type(ticket.job)] = pace + 0.1 * (record.seconds - pace)
        while worker.batches and not worker.batches[0]:
            worker.batches.popleft()
        return weight


def room_for(databases: Mapping[str, Path], database_mb: int, data_mount: Path | None) -> int:
    """Megabytes of memory file system a container needs for its databases, at most `database_mb`. Raises SandboxError."""
    sizes = []
    for digest, path in databases.items():
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise SandboxError(f"databases: {digest!r} is not the sha256 hex digest of {path}")
        if not path.is_file():
            raise SandboxError(f"databases: there is no file {path}")
        if data_mount is None or not path.resolve().is_relative_to(data_mount.resolve()):
            sizes.append(path.stat().st_size)
    if sizes and max(sizes) > database_mb << 20:
        raise SandboxError(
            f"a database of {max(sizes) >> 20} MB does not fit into database_mb={database_mb}: raise it, "
            "or set data_mount to the directory the databases are in"
        )
    return min(database_mb, (sum(sizes) >> 20) + len(sizes) // 256 + 1)
