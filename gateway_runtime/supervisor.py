"""The gateway's loops: directive, heartbeat, lease, tasks, renewal. Each loop does one item a step; sleeping lives here only.

The seed's five log lines are written here, in their order.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
from cryptography import x509
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from accounts.jobs import forget_old_failures
from common import audit, lanes, logs, outages, retention
from common.clock import boottime
from common.clock import now as clock_now
from common.lanes import Lane
from common.process_locks import ProcessLock, Rank
from common.progress import loops
from common.retained import GATEWAY
from gateway_runtime import (
    audit_retention,
    audit_upload,
    copy_digest,
    enroll,
    marks,
    pacing,
    probes,
    replica,
    state,
    work,
    write_queue,
)
from gateway_runtime import identity as identities
from gateway_runtime.client import CallsPaused, Channel, Known, PrimaryRefused, PrimaryUnreachable
from gateway_runtime.identity import Identity
from gateway_runtime.node import Node
from gateway_runtime.replica import Pulled
from gateway_runtime.results import Reports
from gateway_runtime.resync import ResyncOrder
from gateway_runtime.state import OneProcess, Sequences
from gateway_runtime.uploads import Uploader
from gateway_runtime.vault_probes import VaultProbes
from protocol import paths
from protocol.messages import (
    Acknowledged,
    AskDirective,
    Directive,
    DrainReport,
    FenceAcknowledged,
    FenceOrder,
    Heartbeat,
    LeaseAnswer,
    ReleaseLease,
    RenewLease,
    SignOfLife,
)
from protocol.vocabulary import Assignment, BreakerState, LeaseVerdict

log = logging.getLogger("mazevault.gateway")

RETRY_BASE, RETRY_CAP = 1.0, 15.0
"""First and longest pause in seconds after a failed call; a Primary that restarts must see no wave. A loop waits no longer than
one renewal of the lease, so that a short outage costs the active gateway its lease at most once."""
START_JITTER = 0.5
"""Longest pause in seconds before a loop's first step."""
DATABASE_PAUSE = 2.0
"""Longest pause in seconds after the own database did not answer: it is near, and with it everything begins again."""
STOP_SECONDS = 8.0
"""A stopping gateway is gone before a launcher or Kubernetes loses patience (10 s)."""
REFUSED_PAUSE = 10.0
"""A banned or revoked gateway asks again this slowly; it acts on nothing meanwhile."""

EXPELLED = frozenset({"GATEWAY_BANNED", "GATEWAY_DECOMMISSIONED", "CERTIFICATE_REVOKED"})
"""Refusals that are meant for this gateway itself and not for what it asked."""
CORE = frozenset({"heartbeat", "directive", "lease"})
"""Loops whose commits nothing else may hold up: fence, assignment, lease."""
CLAIMS_SECONDS = 5.0
"""How often changes of vaults are looked for that were begun here and not ended (ADR 30)."""
BUSY = frozenset({429, 503})
"""Answers that say "not now" and nothing about this gateway: tried again as after no answer."""
PRUNE_SECONDS = 300.0
"""How often sign-ins that were begun here and never finished are dropped."""

LONGEST_STEP = 600.0
LONGEST_STEPS: Mapping[str, float] = {"heartbeat": 120.0, "directive": 120.0, "lease": 120.0, "tasks": 1800.0}
"""Seconds after which a step of a loop stands still. Calls, statements and waits for locks have limits of their own, of some
seconds each; a task lists a large vault page by page."""
RETENTION_SECONDS, AUDIT_RETENTION_SECONDS = 60.0, 600.0
"""Pauses in seconds between two looks for what was kept long enough."""
COPY_DIGEST_PAUSE, COPY_DIGEST_ROUND = 1.0, 3600.0
"""Pauses in seconds while the copy's digest is summed up again, and between two such rounds."""

TOLD_SECONDS = 54.0
"""A heartbeat that was answered is told in the log once a minute, however often one is sent. A tenth below it, since the pauses
between heartbeats are jittered."""
FIRST_WORD_SECONDS = 3.0
"""A starting gateway waits no longer for the Primary's first word."""
UNSETTLED_PAUSE = 0.2
"""Pause in seconds before an order that is not carried out yet is looked at again."""

Step = Callable[[], float]
"""One step of a loop; returns the pause in seconds until the next one."""


class Supervisor:
    """Owns the node, the channel and the loops of one gateway process."""

    def __init__(self) -> None:
        self.timing = settings.MAZEVAULT.timing
        self.instance = uuid.uuid4()
        """This process, for as long as it lives and kept nowhere: a copy of the machine that is started is another one."""
        self.sequences = Sequences()
        self.one_process = OneProcess()
        self.started_at = datetime.now(UTC)
        self.stop = threading.Event()
        self.wake_heartbeat = threading.Event()
        self.wake_lease = threading.Event()
        self.wake_tasks = threading.Event()
        self.wake_replica = threading.Event()
        self.wake_uploads = threading.Event()
        self.uploader = Uploader(self.timing.replica_poll)
        self.audit_uploads = audit_upload.Uploads()
        self.witness = audit_upload.Witness()
        self.reports = Reports()
        self._resync = ResyncOrder(self.timing.heartbeat_interval)
        self.threads: list[threading.Thread] = []
        self.vaults = VaultProbes()
        self.renewed: Callable[[Identity], None] = lambda _identity: None
        self.end_claims: Callable[[], object] = lambda: None
        self._order_lock = ProcessLock("orders", Rank.ORDERS)
        self._process_lock = ProcessLock("the one process", Rank.ONE_PROCESS)
        self.identity: Identity | None = None
        self._former: tuple[Channel, float] | None = None
        """With which it spoke before its certificate was renewed, and since when (monotonic second) it does no more."""
        self._acknowledged = ""
        self._assignment: tuple[Assignment, int, str] | None = None
        self._last_sign = 0
        self._heartbeat_told_at = float("-inf")
        self._settled = ""
        """Revision of the last directive whose orders were all carried out; until then the Primary repeats it at once."""
        self._random = random.Random()  # noqa: S311  jitter, not a secret

    def enrol(self) -> Identity:
        """Become somebody: from the state file, or with the bootstrap token, trying until an answer is final."""
        log.info("Starting MazeVault in gateway mode")
        self._become_the_only_process()
        log.info("Registering gateway with primary...")
        found = enroll.stored_identity()
        attempt = 0
        while found is None:
            try:
                found = enroll.register(self.sequences, self.instance)
            except (PrimaryUnreachable, PrimaryRefused) as error:
                pause = pacing.backoff(attempt, RETRY_BASE, RETRY_CAP, self._random)
                log.warning("registration did not succeed, next try in %.1f s: %s", pause, error)
                attempt += 1
                if self.stop.wait(pause):
                    raise SystemExit(0) from None
                if not self.one_process.still_held():
                    self._become_the_only_process()
        log.info("Setting up mTLS...")
        self.node = Node(self.timing)
        self._use(found)
        log.info("Gateway registered successfully: %s", found.gateway_id)
        return found

    def start(self) -> None:
        """Start the loops. They are independent: a slow heartbeat never delays a lease."""
        closed = work.close_interrupted()
        if closed:
            log.warning("%s tasks were interrupted by the end of the last process", closed)
        steps: tuple[tuple[str, Step, threading.Event | None], ...] = (
            ("heartbeat", self.heartbeat_step, self.wake_heartbeat),
            ("directive", self.directive_step, None),
            ("lease", self.lease_step, self.wake_lease),
            ("tasks", self.task_step, self.wake_tasks),
            ("renewal", self.renewal_step, None),
            ("old-sign-ins", self.old_sign_ins_step, None),
            ("vaults", self.vault_step, None),
            ("vault-claims", self.claims_step, None),
            ("replica", self.replica_step, self.wake_replica),
            ("copy-digest", self.copy_digest_step, None),
            ("uploads", self.upload_step, self.wake_uploads),
            ("audit-chain", self.audit_chain_step, None),
            ("audit-upload", self.audit_upload_step, None),
            ("retention", self.retention_step, None),
            ("audit-retention", self.audit_retention_step, None),
        )
        for name, step, wake in steps:
            thread = threading.Thread(target=self._loop, args=(name, step, wake), name=name, daemon=True)
            self.threads.append(thread)
            thread.start()
        log.info("Heartbeat loop started (%gs interval)", self.timing.heartbeat_interval)

    def hear_first(self) -> None:
        """One word with the Primary before anybody is served, so that a copy of a gateway, or one whose database was put back,
        knows it before it promises anything. A Primary that is away keeps nobody waiting for long."""
        try:
            self._obey(self.channel.call(paths.DIRECTIVE, AskDirective(), Directive, timeout=FIRST_WORD_SECONDS))
        except PrimaryRefused as refused:
            self.take_refusal(refused)
        except (PrimaryUnreachable, DatabaseError, psycopg.Error) as error:
            log.warning("nothing was heard of the Primary yet, going by what is stored: %s", error)

    def shut_down(self) -> None:
        """Stop acting, give the lease back, end the loops. The next gateway need not wait for the lease to run out."""
        deadline = time.monotonic() + STOP_SECONDS
        self.stop.set()
        for event in (self.wake_heartbeat, self.wake_lease, self.wake_tasks, self.wake_replica, self.wake_uploads):
            event.set()
        epoch, ended = self.node.stop_acting(min(self.timing.effect_deadline, STOP_SECONDS / 2))
        if ended and self.one_process.still_held():
            self._say_goodbye(epoch, max(0.5, deadline - time.monotonic()))
        if ended:
            self._end_in_order()
        log.info("gateway stopped")

    def heartbeat_step(self) -> float:
        if not self._still_the_only_process():
            return 1.0
        try:
            report = self._report()
            directive = self.channel.call(paths.HEARTBEAT, report, Directive, timeout=self.timing.round_trip_max)
        except CallsPaused:
            self.node.heartbeats.held_back(time.monotonic())
            raise
        except (PrimaryUnreachable, PrimaryRefused):
            self.node.heartbeats.failed(time.monotonic())
            raise
        self.node.heartbeats.arrived(time.monotonic())
        self._tell_heartbeat(report, time.monotonic())
        self._close_the_former_channel(after=self.timing.directive_wait + 2 * self.timing.round_trip_max)
        self._go_beyond(directive.writes_seen)
        self._obey(directive)
        self.witness.said(report.countersigned)
        self.witness.take(directive.checkpoint, self.channel.primary_keys(), self.known_identity().keys.signing)
        return pacing.jittered(directive.next_heartbeat_seconds, 0.05, self._random)

    def directive_step(self) -> float:
        # The call that tries whether the Primary is back must not wait there: every other loop waits for its end.
        if not self._still_the_only_process():
            return 1.0  # the next process may be running: to go on speaking would look like a second life
        wait = self.timing.directive_wait if self.node.breaker.state is BreakerState.CLOSED else 0.0
        ask = AskDirective(after=self._settled, wait=wait)
        directive = self.channel.call(paths.DIRECTIVE, ask, Directive, timeout=wait + self.timing.round_trip_max)
        self._obey(directive)
        return max(directive.retry_after_seconds, 0.0 if self._settled else UNSETTLED_PAUSE)

    def lease_step(self) -> float:
        if not self._still_the_only_process():
            return 1.0
        if not self.node.wants_lease():
            return self.timing.lease_renew
        ask_again = self._renew_lease()
        usual = pacing.jittered(self.timing.lease_renew, 0.1, self._random)
        return min(ask_again, usual) if ask_again else usual

    def task_step(self) -> float:
        self.reports.send(self.channel)
        directive = self.node.directive
        if directive is None or not directive.poll_tasks or self.node.lease_seconds_left() <= self.timing.effect_deadline:
            return self.timing.task_poll
        if not work.claim_and_do(self.node, self.channel):
            return self.timing.task_poll
        self.reports.send(self.channel)
        return 0.0

    def renewal_step(self) -> float:
        self._keep_roots()
        directive = self.node.directive
        if directive is not None and directive.renew_certificate:
            self._use(enroll.renew(self.known_identity(), self.channel))
            log.info("certificate renewed, valid until %s", self.certificate_expires_at().isoformat())
        return pacing.jittered(self.timing.heartbeat_interval, 0.2, self._random)

    def vault_step(self) -> float:
        self.vaults.look()
        return pacing.jittered(self.timing.heartbeat_interval, 0.2, self._random)

    def claims_step(self) -> float:
        """Only the active gateway looks: a write that is found is one of its stream, and what is put back needs the lease."""
        if self.node.lease_seconds_left() > self.timing.effect_deadline:
            self.end_claims()
        return CLAIMS_SECONDS

    def old_sign_ins_step(self) -> float:
        forget_old_failures()
        return PRUNE_SECONDS

    def retention_step(self) -> float:
        """What was kept long enough goes, a bounded number at a time."""
        retention.apply(GATEWAY)
        return RETENTION_SECONDS

    def audit_retention_step(self) -> float:
        generation = str(self.known_identity().generation)
        gone = audit_retention.apply(self.channel, generation, clock_now(), self.timing.round_trip_max)
        return 0.0 if gone == audit_retention.LONGEST_CUT else AUDIT_RETENTION_SECONDS

    def replica_step(self) -> float:
        self._resync.follow(self.node.directive)
        pulled = replica.pull(self.channel, self.known_identity().environment)
        return 0.0 if pulled is Pulled.MORE else pacing.jittered(self.timing.replica_poll, 0.1, self._random)

    def copy_digest_step(self) -> float:
        """Look at the copy's digest again: through all of it in small steps, then not for an hour."""
        return COPY_DIGEST_PAUSE if copy_digest.check() else COPY_DIGEST_ROUND

    def upload_step(self) -> float:
        return self.uploader.step(self.channel)

    def audit_chain_step(self) -> float:
        return audit_upload.chain_step(str(self.known_identity().generation))

    def audit_upload_step(self) -> float:
        return self.audit_uploads.step(self.channel, str(self.known_identity().generation), self.timing.round_trip_max)

    def take_refusal(self, refused: PrimaryRefused) -> bool:
        """Stop serving when the Primary has expelled this gateway. False when the refusal means something else (I14)."""
        if refused.code not in EXPELLED:
            return False
        self._settled = ""
        self.node.expel(f"the Primary answers {refused.code}")
        return True

    def certificate_expires_at(self) -> datetime:
        return x509.load_pem_x509_certificate(self.known_identity().certificate.encode()).not_valid_after_utc

    def known_identity(self) -> Identity:
        """Who this gateway is. Raises `RuntimeError` before it is registered."""
        if self.identity is None:
            raise RuntimeError("this gateway is not registered yet")
        return self.identity

    def _become_the_only_process(self) -> None:
        waited = False
        while not self._take_process_lock():
            if not waited:
                log.warning("another process of this gateway is running on the same database; waiting until it has ended")
                waited = True
            if self.stop.wait(1):
                raise SystemExit(0)

    def _take_process_lock(self) -> bool:
        try:
            return self.one_process.take()
        except psycopg.Error as error:
            outages.is_outage(error)
            return False

    def _still_the_only_process(self) -> bool:
        """Whether the lock is ours. Where it was lost the lease is gone, and once it is back all goes by what is committed then.

        Raises `django.db.Error` when that cannot be read; the lock is given up again.
        """
        with self._process_lock:
            if self.one_process.still_held():
                return True
            self.node.drop_lease("the gateway's own database was away, so another process of it could be running")
            if not self._take_process_lock():
                return False
            try:
                self.node.take_over()
            except DatabaseError:
                self.one_process.give_up()
                raise
            self._settled = self._acknowledged = ""  # the Primary says all of it again, and at once
            self.wake_heartbeat.set()
            return True

    def _use(self, identity: Identity) -> None:
        """Speak as this identity from now on."""
        node = settings.MAZEVAULT
        client_file, _ = identities.tls_files(node.own_gateway.state_file, identity, node.master_key)
        self.identity = identity
        logs.this_is(gateway=identity.name, environment=identity.environment)
        self._retire_the_channel()
        self.channel = Channel(
            breaker=self.node.breaker, urls=enroll.primary_urls(identity.urls), keys=identity.keys,
            known=Known(identity.pins, identity.roots_revision), generation=identity.generation, sequences=self.sequences,
            sender=identity.gateway_id, environment=identity.environment, identity=identity, tls_file=client_file,
            instance=self.instance, master_key=node.master_key, put_back=self.wake_heartbeat.set,
            may_speak=self.one_process.still_held,
        )  # fmt: skip
        self.channel.epoch = self.node.highest_epoch
        self.renewed(identity)

    def _retire_the_channel(self) -> None:
        """Calls under way on the channel of now go to their end; then it is closed (`_close_the_former_channel`)."""
        self._close_the_former_channel(after=0.0)
        if (former := getattr(self, "channel", None)) is not None:
            self._former = former, time.monotonic()

    def _close_the_former_channel(self, after: float) -> None:
        """`after`: how many seconds it must have been retired."""
        if self._former is not None and time.monotonic() - self._former[1] >= after:
            former, self._former = self._former[0], None
            former.close()

    def _keep_roots(self) -> None:
        """Write down the roots the Primary names by now, so that the next one is trusted before the present one ends."""
        identity, (roots, revision) = self.known_identity(), self.channel.trusted()
        if revision is None or (roots, revision) == (identity.root, identity.roots_revision):
            return
        learned, file = replace(identity, root=roots, roots_revision=revision), settings.MAZEVAULT.own_gateway.state_file
        identities.store(file, learned, settings.MAZEVAULT.master_key)
        self.identity = learned
        log.info("the Primary stands under %s roots now (set %s)", len(learned.pins), revision)

    def _obey(self, directive: Directive) -> None:
        """Take over a directive and act on its orders. Orders come by heartbeat and by directive call; one at a time."""
        marks.keep(directive.mark)  # before its epoch counts, so that no epoch is told without its proof
        with self._order_lock:
            if self.stop.is_set():
                return  # it answers a process that said goodbye: "take nothing new" would be what the next one goes by
            if not self.node.obey(directive):
                return
            self.channel.epoch = self.node.highest_epoch
            fenced = self._follow_fence(directive.fence) if directive.fence else True
            drained = self._report_drain(directive) if directive.drain else True
            self._settled = directive.revision if fenced and drained else ""
        self._give_sign(directive.sign)
        self._tell_a_change(directive)
        if not directive.waits:
            self.wake_lease.set()
        if directive.tasks_waiting:
            self.wake_tasks.set()

    def _give_sign(self, number: int) -> None:
        """Answer the question whether this gateway is alive, once for each number, with what a move wants to know of now."""
        if number in (0, self._last_sign):  # 0: nobody asks, or nobody asks this instance
            return
        queue, row, moment = write_queue.depth(), state.this_life(), clock_now()
        age = state.age_of_copy(row, moment)
        self.channel.call(
            paths.SIGN_OF_LIFE,
            SignOfLife(
                number=number, write_queue_depth=queue.writes, write_queue_oldest_seconds=queue.oldest_seconds(moment),
                write_queue_last_sequence=row.write_sequence, replica_complete=age is not None,
                replica_age_seconds=min(replica.LONGEST_AGE, age or 0.0),
            ),
            Acknowledged,
            timeout=self.timing.round_trip_max,
        )  # fmt: skip
        self._last_sign = number

    def _tell_heartbeat(self, sent: Heartbeat, moment: float) -> None:
        if moment - self._heartbeat_told_at < TOLD_SECONDS:
            return
        self._heartbeat_told_at = moment
        log.info(
            "heartbeat answered by the Primary: %s in epoch %s, %s queued writes, breaker %s",
            sent.reported_role.value, sent.epoch, sent.write_queue_depth, sent.breaker.value,
        )  # fmt: skip

    def _tell_a_change(self, directive: Directive) -> None:
        """A new assignment shows in the fleet's table at once, not a heartbeat later."""
        assignment = (directive.assigned_role, directive.epoch, directive.waits)
        if self._assignment not in (None, assignment):
            self.wake_heartbeat.set()
        if directive.waits and (self._assignment is None or self._assignment[2] != directive.waits):
            log.warning("this process takes no work yet: %s", directive.waits)
        self._assignment = assignment

    def _go_beyond(self, writes_seen: int) -> None:
        """The database was put back: numbers of writes up to this one are in use for others."""
        if writes_seen and state.skip_writes_to(writes_seen):
            log.error("this gateway's database was put back to an earlier state: its writes go on after number %s", writes_seen)
            self.wake_heartbeat.set()

    def _follow_fence(self, order: FenceOrder) -> bool:
        """Fence, then acknowledge; or lift the fence of a cancelled operation. False when effects still run."""
        if order.cancelled:
            self.node.lift_fence(order)
            return True
        if self._acknowledged == order.operation or self.node.is_outdated(order):
            return True
        if not self.node.fence(order, self.timing.effect_deadline):
            log.warning("calls may still be under way; fence of operation %s is not acknowledged yet", order.operation)
            return False
        if not self._still_the_only_process():
            log.warning("another process of this gateway may run; fence of operation %s is not acknowledged", order.operation)
            return False
        self.channel.call(
            paths.FENCE_ACKNOWLEDGE,
            FenceAcknowledged(
                operation=order.operation, epoch=order.epoch, write_queue_last_sequence=state.this_life().write_sequence
            ),  # the fence is committed, so no later number can be of its epoch
            Acknowledged,
            timeout=self.timing.round_trip_max,
        )
        self._acknowledged = order.operation
        log.info("fenced for operation %s in epoch %s and acknowledged", order.operation, order.epoch)
        return True

    def _report_drain(self, directive: Directive) -> bool:
        """Tell what still runs here. True once nothing does."""
        assert directive.drain is not None  # noqa: S101  the caller looked
        running, waiting = self.node.running_effects(), write_queue.depth()
        self.channel.call(
            paths.DRAIN_REPORT,
            DrainReport(
                operation=directive.drain.operation,
                epoch=directive.drain.epoch,
                write_queue_depth=waiting.writes,
                running_tasks=running,
                write_queue_oldest_seconds=waiting.oldest_seconds(clock_now()),
            ),
            Acknowledged,
            timeout=self.timing.round_trip_max,
        )
        return running == 0 and waiting.writes == 0

    def _renew_lease(self) -> float:
        """Ask once. Returns when to ask again where the Primary named a time, 0 otherwise."""
        epoch = self.node.standing().epoch
        sent_boot, sent_wall = boottime(), time.time()
        answer = self.channel.call(
            paths.LEASE_RENEW,
            RenewLease(epoch=epoch, sent_at=_wall_clock()),
            LeaseAnswer,
            timeout=self.timing.round_trip_max,
        )
        if answer.verdict is LeaseVerdict.GRANTED:
            if not self._still_the_only_process():  # who takes the lock from now on waits for the end of this grant
                return 0.0
            held_before = self.node.lease_seconds_left() > 0
            ttl = min(answer.ttl_seconds, self.timing.lease_ttl)
            taken = self.node.take_lease(epoch=answer.epoch, ttl=ttl, sent_boot=sent_boot, sent_wall=sent_wall)
            if taken and not held_before:
                self.wake_tasks.set()
                self.wake_heartbeat.set()
            return 0.0
        self.node.learn_epoch(answer.epoch)
        self.node.drop_lease(f"the Primary refused to renew it: {answer.verdict.value}")
        return answer.retry_after_seconds

    def _say_goodbye(self, epoch: int, timeout: float) -> None:
        """Nothing that this process began can still arrive anywhere: the next one need not wait. `epoch` is 0 without a lease."""
        try:
            self.channel.call(paths.LEASE_RELEASE, ReleaseLease(epoch=epoch), Acknowledged, timeout=timeout)
            log.info(
                "lease of epoch %s given back" if epoch else "the Primary knows that this process ends",
                *([epoch] if epoch else []),
            )
        except (PrimaryUnreachable, PrimaryRefused) as error:
            log.warning("the Primary does not hear of this end, and the next process waits for a while: %s", error)

    def _end_in_order(self) -> None:
        try:
            self.node.end()
        except DatabaseError as error:
            log.warning(
                "the next process waits for the end of this one's lease before it confirms a fence: %s", type(error).__name__
            )

    def _report(self) -> Heartbeat:
        standing, moment = self.node.standing(), clock_now()
        queue, copy = write_queue.depth(), replica.report(moment)
        own_vault, project_vaults = self.vaults.found()
        audit_position, audit_head = audit.head(str(self.known_identity().generation))
        return Heartbeat(
            audit_position=audit_position,
            audit_head=audit_head,
            countersigned=self.witness.pending,
            mark=marks.kept(),
            version=settings.MAZEVAULT.version,
            reported_role=standing.role,
            epoch=standing.epoch,
            started_at=self.started_at.isoformat(),
            sent_at=_wall_clock(),
            lease_seconds_left=max(0.0, standing.lease_seconds_left),
            certificate_expires_at=self.certificate_expires_at().isoformat(),
            breaker=self.node.breaker.state,
            database=probes.database(),
            cache=probes.cache_server(),
            gateway_key_vault=own_vault,
            project_key_vaults=project_vaults,
            primary_latency_p95_ms=self.channel.latency_p95_ms(),
            tasks_succeeded=self.node.tasks_succeeded,
            tasks_failed=self.node.tasks_failed,
            heartbeat_failures=self.node.heartbeats.count,
            running_effects=standing.running_effects,
            write_queue_depth=queue.writes,
            write_queue_oldest_seconds=queue.oldest_seconds(moment),
            write_queue_last_sequence=state.this_life().write_sequence,
            write_queue_bytes=queue.size,
            replica_position=copy.position,
            replica_age_seconds=copy.age if copy.complete else replica.LONGEST_AGE,
            replica_complete=copy.complete,
            replica_digest=copy.digest,
        )

    def _loop(self, name: str, step: Step, wake: threading.Event | None) -> None:
        lanes.enter(Lane.CORE if name in CORE else Lane.LOOPS)
        attempt = 0
        self.stop.wait(self._random.uniform(0, START_JITTER))
        pause, longest = 0.0, LONGEST_STEPS.get(name, LONGEST_STEP)
        while not self.stop.is_set():
            loops.moved(name, pause + longest)
            pause, attempt = self._one_step(name, step, attempt)
            connection.close()
            loops.moved(name, pause + longest)
            if wake is not None:
                wake.wait(pause)
                wake.clear()
            elif pause > 0:
                self.stop.wait(pause)
        loops.ended(name)

    def _one_step(self, name: str, step: Step, attempt: int) -> tuple[float, int]:
        """Run one step through the breaker; returns the pause and the number of failures in a row."""
        try:
            pause = self._minding_refusals(step)
        except CallsPaused:
            return self.node.breaker.pause(time.monotonic()), attempt
        except PrimaryUnreachable as error:
            log.warning("%s: the Primary is not reachable: %s", name, error)
        except PrimaryRefused as error:
            log.warning("%s: refused by the Primary: %s", name, error)
            if error.status in BUSY:
                cap = min(RETRY_CAP, self.timing.lease_renew)
                pause = pacing.backoff(attempt, RETRY_BASE, cap, self._random)
                return pacing.not_before(pause, error.retry_after, cap, self._random), attempt + 1
            return pacing.jittered(min(REFUSED_PAUSE, self.timing.heartbeat_interval), 0.2, self._random), attempt + 1
        except (DatabaseError, psycopg.Error) as error:
            if not outages.is_outage(error):
                log.warning("%s: the gateway's database gave up: %s", name, outages.cause_of(error))
            return pacing.jittered(DATABASE_PAUSE, 0.5, self._random), attempt
        except Exception:  # a loop must never die in silence; the traceback is kept and the next step tried
            log.exception("%s: unexpected failure", name)
        else:
            return pause, 0
        return pacing.backoff(attempt, RETRY_BASE, min(RETRY_CAP, self.timing.lease_renew), self._random), attempt + 1

    def _minding_refusals(self, step: Step) -> float:
        try:
            return step()
        except PrimaryRefused as refused:
            self.take_refusal(refused)
            raise


def _wall_clock() -> str:
    return datetime.now(UTC).isoformat()


def days_left(expires_at: datetime) -> float:
    return (expires_at - datetime.now(UTC)) / timedelta(days=1)
