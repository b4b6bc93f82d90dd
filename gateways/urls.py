"""Routes of this app: people's API, and the machine channel at the paths of `protocol.paths`."""

from common.api import routes
from gateways import api, audit_api, machine_api, storage_api, sync_api, vault_api, writes_api
from protocol import paths


def _relative(path: str) -> str:
    return path.removeprefix(f"{paths.API}/")


urlpatterns = [
    *routes("gateways/bootstrap", api.Bootstrap.as_view(), "bootstrap"),
    *routes("gateways/bootstrap/<str:identifier>", api.BootstrapOne.as_view(), "bootstrap-one"),
    *routes(_relative(paths.TRUST), machine_api.trust, "trust"),
    *routes(_relative(paths.REGISTER), machine_api.register, "register"),
    *routes(_relative(paths.HEARTBEAT), machine_api.heartbeat, "heartbeat"),
    *routes(_relative(paths.DIRECTIVE), machine_api.directive, "directive"),
    *routes(_relative(paths.LEASE_RENEW), machine_api.lease, "lease-renew"),
    *routes(_relative(paths.LEASE_RELEASE), machine_api.release, "lease-release"),
    *routes(_relative(paths.FENCE_ACKNOWLEDGE), machine_api.fence, "fence"),
    *routes(_relative(paths.DRAIN_REPORT), machine_api.drain, "drain-report"),
    *routes(_relative(paths.TASK_CLAIM), machine_api.claim_tasks, "task-claim"),
    *routes(_relative(paths.TASK_RESULTS), machine_api.task_results, "task-results"),
    *routes(_relative(paths.AUDIT), machine_api.audit_upload, "audit-upload"),
    *routes(_relative(paths.RENEW), machine_api.renew, "certificate-renew"),
    *routes("audit-logs/export", audit_api.AuditExport.as_view(), "audit-export"),
    *routes("audit-logs/verify", audit_api.AuditVerify.as_view(), "audit-verify"),
    *routes(_relative(paths.WRITES), machine_api.take_writes, "channel-writes"),
    *routes(_relative(paths.CHANGES), machine_api.give_changes, "channel-changes"),
    *routes(_relative(paths.SIGN_IN), machine_api.sign_in, "channel-sign-in"),
    *routes(_relative(paths.SIGN_OUT), machine_api.sign_out, "channel-sign-out"),
    *routes(_relative(paths.VAULT_ACCESS), machine_api.vault_access, "channel-vault-access"),
    *routes(_relative(paths.SYNC_OPEN), machine_api.sync_open, "channel-sync-open"),
    *routes(_relative(paths.SYNC_ROWS), machine_api.sync_rows, "channel-sync-rows"),
    *routes(_relative(paths.SYNC_PLAN), machine_api.sync_plan, "channel-sync-plan"),
    *routes(_relative(paths.SYNC_PROGRESS), machine_api.sync_progress, "channel-sync-progress"),
    *routes(_relative(paths.SYNC_END), machine_api.sync_end, "channel-sync-end"),
    *routes(_relative(paths.STORAGE_MOVE), machine_api.storage_move, "channel-storage-move"),
    *routes(_relative(paths.STORAGE_END), machine_api.storage_end, "channel-storage-end"),
    *routes("secrets/<uuid:identifier>/rotations", storage_api.SecretRotations.as_view(), "secret-rotations"),
    *routes("projects/<uuid:identifier>/storage", storage_api.ProjectStorage.as_view(), "project-storage"),
    *routes("projects/sync-rules/<uuid:identifier>/runs", sync_api.SyncRuns.as_view(), "sync-runs"),
    *routes("projects/sync-rules/<uuid:identifier>/setup", sync_api.SyncSetup.as_view(), "sync-setup"),
    *routes("projects/sync-runs/<uuid:identifier>", sync_api.SyncRunOne.as_view(), "sync-run"),
    *routes("projects/sync-runs/<uuid:identifier>/steps", sync_api.SyncSteps.as_view(), "sync-run-steps"),
    *routes("projects/sync-runs/<uuid:identifier>/notes", sync_api.SyncNotes.as_view(), "sync-run-notes"),
    *routes("projects/sync-runs/<uuid:identifier>/stop", sync_api.SyncStop.as_view(), "sync-run-stop"),
    *routes("projects/sync-runs/<uuid:identifier>/undo", sync_api.SyncUndo.as_view(), "sync-run-undo"),
    *routes("projects/integrations/<uuid:identifier>/test", vault_api.IntegrationTest.as_view(), "integration-test"),
    *routes("projects/integrations/<uuid:identifier>/access", vault_api.IntegrationAccess.as_view(), "integration-access"),
    *routes("gateways", api.Gateways.as_view(), "gateways"),
    *routes("gateways/<str:identifier>", api.GatewayOne.as_view(), "gateway"),
    *routes("gateways/<str:identifier>/ban", api.Ban.as_view(), "gateway-ban"),
    *routes("gateways/<str:identifier>/release", api.Release.as_view(), "gateway-release"),
    *routes("gateways/<str:identifier>/drain", api.Drain.as_view(), "gateway-drain"),
    *routes("gateways/<str:identifier>/decommission", api.Decommission.as_view(), "gateway-decommission"),
    *routes("admin/gateway-health", api.GatewayHealth.as_view(), "gateway-health"),
    *routes("admin/writes", writes_api.Writes.as_view(), "received-writes"),
    *routes("admin/writes/resolve", writes_api.WritesResolve.as_view(), "received-writes-resolve"),
    *routes("admin/writes/<str:identifier>", writes_api.WriteOne.as_view(), "received-write"),
    *routes("admin/writes/<str:identifier>/preview", writes_api.WritePreview.as_view(), "received-write-preview"),
    *routes("admin/writes/<str:identifier>/resolve", writes_api.WriteResolve.as_view(), "received-write-resolve"),
    *routes("writes/<str:identifier>", writes_api.OwnWrite.as_view(), "own-write"),
    *routes("admin/vaults", vault_api.Vaults.as_view(), "vaults"),
    *routes("admin/vaults/release", vault_api.VaultsRelease.as_view(), "vaults-release"),
    *routes("admin/tasks", api.Tasks.as_view(), "tasks"),
    *routes("admin/tasks/<str:identifier>", api.TaskOne.as_view(), "task"),
]
