"""The host's side: jobs in, results out in their order, whatever happens to the containers."""

from __future__ import annotations

import concurrent.futures
import itertools
import re
import selectors
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox import answers, owner
from sandbox.answers import Job, Ticket
from sandbox.client import connect, ended_itself, user_ids
from sandbox.container import Container, Gone, Settings, preload_of, room_for
from sandbox.errors import SandboxError
from sandbox.protocol import PythonJob, Result, SqlJob, Status
from sandbox.runner import wire
from sandbox.runner.clock import STRETCH

AHEAD = 1000  # jobs a worker may be ahead of the consumer
AHEAD_BYTES = 256 << 20  # results that wait for the consumer
FRAMES_AHEAD = 2  # batches sent to a container at once, so that it never waits for the host
BATCH_SECONDS = 0.03  # what a batch should take
BATCH_JOBS, BATCH_BYTES = 256, 1 << 20
SILENCE_SECONDS = 15.0  # a container that says nothing so long after all its deadlines is dead
START_PAUSES = (0.0, 1.0, 3.0, 8.0)  # seconds before each try


@dataclass(eq=False)
class Worker:
    """One of the pool's places: a container, the batches it has to answer, and when it last answered."""

    index: int
    container: Container | None = None
    starting: concurrent.futures.Future[Container] | None = None
    batches: deque[OrderedDict[int, Ticket]] = field(default_factory=deque)
    heard: float = 0.0
    programs: int = 0
    sent: bool = False  # whether the container has got any job

    def patience(self) -> float:
        """Seconds of silence after which the container counts as dead."""
        longest = max((answers.seconds(t.job) for batch in self.batches for t in batch.values()), default=0.0)
        return (STRETCH + 1) * longest + SILENCE_SECONDS


class Pool:
    """Warm containers that run jobs for one process. A context manager: its containers end with it.

    databases: SQLite files by sha256 digest. They travel over the protocol, so the daemon may be on another machine.
    data_mount: databases under this directory are read from a read-only mount instead; needs a local daemon.
    retries: how often a job is tried again after its container died. recycle_after: programs a container runs at most.
    Raises SandboxError.
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
        self.turn, self.turn_thread = threading.Lock(), 0
        self.tokens, self.names = itertools.count(1), itertools.count(1)
        self.pace = {PythonJob: 0.005, SqlJob: 0.001}  # seconds a job, a moving average
        self.uids = user_ids(self.client)
        room = room_for(databases or {}, database_mb, data_mount)
        self.settings = Settings(
            image=image,
            preload=preload_of(self.client, image),
            run=run,
            pool=uuid.uuid4().hex[:12],
            memory_mb=memory_mb,
            pids=pids,
            runtime=runtime,
            database_mb=room,
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
                worker.starting = self.starter.submit(self.start, worker.index, START_PAUSES[:1])
            for worker in self.workers:
                self.settle(worker, wait=True)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove every container of this pool. Safe to call twice."""
        if self.closed:
            return
        self.closed = True
        for worker in self.workers:  # the runner ends when its stdin does
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

    def start(self, index: int, pauses: Sequence[float]) -> Container:
        """Start a container, one try after each pause: a daemon may be restarting. Raises SandboxError."""
        run = re.sub(r"[^a-zA-Z0-9_.-]+", "-", self.settings.run)[:40]
        name = f"codelutra-{run}-{self.settings.pool}-{index}-{next(self.names)}"
        # Process limits count per user and host: each place has a user id for its programs and two for its runner.
        uid = self.uids.start + (int(self.settings.pool, 16) + index) % (len(self.uids) // 3) * 3
        for attempt, pause in enumerate(pauses):
            time.sleep(pause)
            if self.closed and attempt:
                break
            try:
                return Container(self.client, self.settings, f"{name}-{attempt}", uid)
            except SandboxError as error:
                failure = error
        raise failure

    def settle(self, worker: Worker, *, wait: bool = False) -> None:
        """Give a worker the container that was started for it, if it is ready. Raises SandboxError."""
        if worker.starting is None or not (wait or worker.starting.done()):
            return
        worker.container, worker.starting = worker.starting.result(), None
        worker.heard, worker.programs, worker.sent = time.monotonic(), 0, False
        self.selector.register(worker.container, selectors.EVENT_READ, worker)

    def replace(self, worker: Worker, queue: deque[Ticket], reason: str) -> None:
        """Remove a worker's container and start another. Jobs it had not answered go back to the front of the queue.

        The batch it was working on may be the cause: each of its jobs is charged an attempt, and runs alone from now on. A
        job that is lost for the last time, alone in a fresh container that nobody else ended, has done it itself.
        """
        container = worker.container
        if container is None:
            return
        self.replaced.append(reason)
        self.selector.unregister(container)
        unanswered = [list(batch.values()) for batch in worker.batches if batch]
        worker.batches.clear()
        lost = unanswered[0] if unanswered else []
        is_own_doing = any(self.is_last_try(ticket) for ticket in lost) and ended_itself(self.client, container.id)
        container.hang_up()
        worker.container = None
        self.starter.submit(owner.remove, self.client, container.id)
        if not self.closed:
            worker.starting = self.starter.submit(self.start, worker.index, START_PAUSES)
        for ticket in lost:
            ticket.attempts += 1
            ticket.alone = True
            if ticket.attempts > self.retries:
                status: Status = "resource_limit" if is_own_doing else "infra_error"
                error = f"the container died {ticket.attempts} times: {reason}"[-2000:]
                ticket.result = Result(ticket.job.id, status, error=error, attempts=ticket.attempts)
        queue.extendleft(ticket for batch in reversed(unanswered) for ticket in reversed(batch) if ticket.result is None)

    def is_last_try(self, ticket: Ticket) -> bool:
        return ticket.alone and ticket.attempts >= self.retries

    # mapping

    def map(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Results in the order of the jobs, each as soon as it is there. Takes at most AHEAD jobs a worker in advance.

        One map runs at a time: a second thread waits for the first. A job whose container died more than `retries` times
        is an `infra_error`, or a `resource_limit` if it did that itself. Raises SandboxError when no container can be
        started any more.
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
                for worker in self.workers:  # nobody waits for these answers any more: forget their tokens
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
            now = time.monotonic()
            if order[0].result is None or now - pumped > BATCH_SECONDS / 10:
                waiting_bytes += self.pump(queue, 0.0 if order[0].result else 1.0)
                pumped = now
            while order and (result := order[0].result) is not None:
                order.popleft()
                waiting_bytes = max(0, waiting_bytes - answers.weight(result))
                yield result
                if time.monotonic() - pumped > BATCH_SECONDS / 10:
                    break

    def pump(self, queue: deque[Ticket], timeout: float) -> int:
        """Send jobs, wait for answers, take them in. Returns the weight of the results that came."""
        for worker in self.workers:
            self.settle(worker)
            self.feed(worker, queue)
        if any(worker.starting for worker in self.workers):
            timeout = min(timeout, 0.02)
        weight = 0
        events = self.selector.select(timeout)
        now = time.monotonic()
        for key, mask in events:
            worker = key.data
            try:
                if mask & selectors.EVENT_READ:
                    weight += self.take(worker, worker.container.receive())
                worker.heard = now
                self.flush(worker)
            except (Gone, wire.BrokenFrame) as reason:
                self.replace(worker, queue, str(reason))
        for worker in self.workers:
            if worker.container and worker.batches and now - worker.heard > worker.patience():
                self.replace(worker, queue, f"it was silent for {now - worker.heard:.0f} s")
        return weight

    def flush(self, worker: Worker) -> None:
        """Send what the stream takes, and wait for room where something is left. Raises Gone."""
        assert worker.container is not None
        worker.container.transmit()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.container.outbox else 0)
        self.selector.modify(worker.container, wanted, worker)

    def feed(self, worker: Worker, queue: deque[Ticket]) -> None:
        """Keep a container busy, or replace it after `recycle_after` programs."""
        container = worker.container
        if container is None:
            return
        if worker.programs >= self.recycle_after or (worker.sent and queue and self.is_last_try(queue[0])):
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
            worker.sent = True
        if container.outbox:
            try:
                self.flush(worker)
            except Gone as reason:
                self.replace(worker, queue, str(reason))

    def batch(self, queue: deque[Ticket]) -> list[Ticket]:
        """Jobs of one kind from the front of the queue: about BATCH_SECONDS of work, and databases that fit together."""
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
        """Match answers with tickets. Returns the weight of the results. Raises Gone when the runner gives up."""
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
