"""The calls of the machine channel: each one unpacks, calls a use case and answers with a message. No rules here.

A coroutine is served in the loop of the machine lane and may not block it; any other function in a thread (`gateways.channel`).
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from msgspec import structs

from common.api import guarded
from common.clock import database_now
from common.clock import now as clock_now
from common.errors import MethodNotAllowed
from gateways import (
    audit_chains,
    changes,
    channel_keys,
    directives,
    dispatch,
    doubts,
    enrollment,
    heartbeats,
    inbox,
    instances,
    marks,
    routes,
    sign_ins,
    signs,
    storage_kept,
    storage_moves,
    sync_channel,
    vault_ways,
    write_checks,
)
from gateways.channel import Call, Question, open_registration, sealed_answer
from gateways.desks import Desk
from gateways.door_views import channel, served
from protocol.envelope import Header
from protocol.messages import (
    Acknowledged,
    AskDirective,
    AuditTaken,
    AuditUpload,
    ClaimTasks,
    Directive,
    DrainReport,
    FenceAcknowledged,
    Heartbeat,
    LeaseAnswer,
    Register,
    Registered,
    ReleaseLease,
    Renew,
    Renewed,
    RenewLease,
    SignOfLife,
    TaskOffers,
    TaskResults,
    TaskVerdicts,
)
from protocol.replica import AskChanges, Changes
from protocol.sign_in import EndSession, EntraProof, SessionOpened
from protocol.storage import EndMove, LookAnswer, LookReport, MoveAnswer, MoveProgress
from protocol.sync import AskRows, EndRun, OpenRun, PlanPart, Progress, ProgressAnswer, Rows, RunAnswer, RunOrder
from protocol.vault_access import AskAccess, VaultAccess
from protocol.vocabulary import LeaseVerdict, Role
from protocol.writes import WriteBatch, WriteCheck, WriteKnown, WriteReceipts
from vault import authorities


@guarded
def trust(request: HttpRequest) -> HttpResponse:
    """Public: what a gateway compares with the pin of its token before it says anything (DESIGN §6)."""
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("this path takes GET only")
    return HttpResponse(trust_text(), content_type="application/json")


def trust_text() -> bytes:
    return json.dumps(asdict(channel_keys.trust_document())).encode()


async def take_registration(desk: Desk, question: Question) -> bytes:
    """A token becomes a gateway; the answer is sealed to the key it named."""
    body, header = await open_registration(desk, question)
    return await desk.apart(lambda: _registered(body, header, question))


register = served(take_registration, take_registration)


def _registered(body: Register, header: Header, question: Question) -> bytes:
    enrolled = enrollment.register(body, address=question.address, now=clock_now())
    gateway, certificate = enrolled.gateway, enrolled.certificate
    message = Registered(
        gateway_id=str(gateway.id),
        name=gateway.name,
        environment=gateway.environment_id,
        role=Role(gateway.role),
        certificate=certificate.pem,
        chain=enrolled.chain or authorities.chain_for(certificate.pem),
        server_certificate=certificate.server_pem,
        heartbeat_seconds=settings.MAZEVAULT.timing.heartbeat_interval,
    )
    return sealed_answer(message, header, gateway, question.body, channel_keys.signing_key(), clock_now())


@channel(Heartbeat, waiting=True, quarantined=True)
async def heartbeat(call: Call, body: Heartbeat) -> Directive:
    desk, gateway, number = call.desk, call.gateway, call.header.sequence
    if not call.seat.current:
        return await directives.ordered(desk, gateway, call.header.instance, call.seat)
    heard = await heartbeats.heartbeat_taken(desk, gateway, body)
    said, seen = body.write_queue_last_sequence, 0
    if not instances.says_what_is_known(call.seat, said):
        seen = await desk.apart(lambda: instances.look_at_writes(gateway, call.seat, said, number))
    if (countersigned := body.countersigned) is not None:
        await desk.apart(lambda: audit_chains.take_countersignature(gateway, countersigned, heard.row))
    directive = directives.directive_of(heard.seen, heard.row, instances.after_writes(call.seat, seen))
    checkpoint = audit_chains.offered_checkpoint(heard.row)
    return structs.replace(await _marked(call, directive), checkpoint=checkpoint, writes_seen=seen)


@channel(AskDirective, waiting=True, quarantined=True)
async def directive(call: Call, body: AskDirective) -> Directive:
    if not call.seat.current:
        return await directives.ordered(call.desk, call.gateway, call.header.instance, call.seat)
    wait = min(body.wait, settings.MAZEVAULT.timing.directive_wait)
    return await _marked(call, await directives.wait_for_change(call.desk, call.gateway, call.header.instance, body.after, wait))


async def _marked(call: Call, answer: Directive) -> Directive:
    """With what proves its epoch, should this database be put back (I4)."""
    key = await call.desk.signing_key()
    return structs.replace(answer, mark=marks.signed_mark(call.gateway.environment_id, answer.epoch, 0, key))


@channel(RenewLease, waiting=True, quarantined=True)
async def lease(call: Call, body: RenewLease) -> LeaseAnswer:
    if not call.seat.current:
        return LeaseAnswer(verdict=LeaseVerdict.ANOTHER_INSTANCE, epoch=body.epoch, retry_after_seconds=call.seat.retry)
    skew = (heartbeats.parse_moment("sent_at", body.sent_at) - call.now).total_seconds()
    grant = await routes.lease_renewed(
        call.desk, call.gateway, instance=call.header.instance, epoch=body.epoch, sequence=call.header.sequence, skew_seconds=skew
    )
    return LeaseAnswer(verdict=grant.verdict, epoch=grant.epoch, ttl_seconds=grant.ttl)


@channel(ReleaseLease, waiting=True, quarantined=True)
def release(call: Call, body: ReleaseLease) -> Acknowledged:
    instance = call.header.instance
    released = routes.release_lease(call.gateway, instance=instance, epoch=body.epoch, sequence=call.header.sequence)
    instances.say_goodbye(call.gateway, instance, call.header.sequence)
    return Acknowledged(detail="released" if released else "nothing to release")


@channel(FenceAcknowledged, held=True)
def fence(call: Call, body: FenceAcknowledged) -> Acknowledged:
    doubts.heed_report(call.gateway, body)
    stored = routes.record_fence(
        call.gateway, call.header.instance, uuid.UUID(body.operation), body.epoch, body.write_queue_last_sequence
    )
    return Acknowledged(detail="stored" if stored else "no such order")


@channel(DrainReport, held=True)
def drain(call: Call, body: DrainReport) -> Acknowledged:
    doubts.heed_report(call.gateway, body)
    stored = routes.record_drain(
        call.gateway,
        call.header.instance,
        uuid.UUID(body.operation),
        body.epoch,
        queue_depth=body.write_queue_depth,
        running_tasks=body.running_tasks,
        oldest_seconds=body.write_queue_oldest_seconds,
    )
    return Acknowledged(detail="stored" if stored else "no such order")


@channel(SignOfLife, held=True)
def sign_of_life(call: Call, body: SignOfLife) -> Acknowledged:
    doubts.heed_report(call.gateway, body)
    return Acknowledged(detail="taken" if signs.take(call.gateway, body) else "not asked")


@channel(ClaimTasks)
def claim_tasks(call: Call, body: ClaimTasks) -> TaskOffers:
    return TaskOffers(tasks=dispatch.claim(call.gateway, body.epoch, body.limit), epoch=body.epoch)


@channel(TaskResults, held=True)
def task_results(call: Call, body: TaskResults) -> TaskVerdicts:
    doubts.heed_results(call.gateway, body.results)
    return TaskVerdicts(verdicts=dispatch.take_results(call.gateway, body.results))


@channel(AuditUpload, quarantined=True)
def audit_upload(call: Call, body: AuditUpload) -> AuditTaken:
    return audit_chains.take_upload(call.gateway, body, call.now)


@channel(Renew, held=True)
def renew(call: Call, body: Renew) -> Renewed:
    certificate, chain = enrollment.renew(call.gateway, body, now=call.now)
    return Renewed(
        certificate=certificate.pem,
        chain=chain,
        server_certificate=certificate.server_pem,
    )


@channel(WriteBatch, quarantined=True)
def take_writes(call: Call, body: WriteBatch) -> WriteReceipts:
    return inbox.take_batch(call.gateway, body, database_now())


@channel(WriteCheck)
def check_write(call: Call, body: WriteCheck) -> WriteKnown:
    return write_checks.check(call.gateway, body, database_now())


@channel(AskChanges, waiting=True, held=True)
def give_changes(call: Call, body: AskChanges) -> Changes:
    return changes.take_changes(call.gateway, body, call.now)


@channel(AskAccess)
def vault_access(call: Call, body: AskAccess) -> VaultAccess:
    return vault_ways.access_for(call.gateway, body.epoch, uuid.UUID(body.integration))


@channel(OpenRun)
def sync_open(call: Call, body: OpenRun) -> RunOrder:
    return sync_channel.open_run(call.gateway, body)


@channel(AskRows)
def sync_rows(call: Call, body: AskRows) -> Rows:
    return sync_channel.rows_of(call.gateway, body)


@channel(PlanPart)
def sync_plan(call: Call, body: PlanPart) -> RunAnswer:
    return sync_channel.take_plan(call.gateway, body)


@channel(Progress)
def sync_progress(call: Call, body: Progress) -> ProgressAnswer:
    return sync_channel.take_progress(call.gateway, body, call.now)


@channel(EndRun)
def sync_end(call: Call, body: EndRun) -> Acknowledged:
    sync_channel.end_run(call.gateway, body, call.now)
    return Acknowledged(detail="kept")


@channel(MoveProgress)
def storage_move(call: Call, body: MoveProgress) -> MoveAnswer:
    return storage_moves.take_progress(call.gateway, body, call.now)


@channel(EndMove)
def storage_end(call: Call, body: EndMove) -> Acknowledged:
    storage_moves.end_move(call.gateway, body, call.now)
    return Acknowledged(detail="kept")


@channel(LookReport)
def storage_look(call: Call, body: LookReport) -> LookAnswer:
    return storage_kept.take_look(call.gateway, body, call.now)


@channel(EntraProof)
def sign_in(call: Call, body: EntraProof) -> SessionOpened:
    return sign_ins.open_session(call.gateway, body, call.now)


@channel(EndSession, waiting=True, quarantined=True)
def sign_out(call: Call, body: EndSession) -> Acknowledged:
    sign_ins.end_session(call.gateway, body, call.now)
    return Acknowledged(detail="ended")
