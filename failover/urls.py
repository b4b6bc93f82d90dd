"""Routes of this app."""

from common.api import routes
from failover import api

urlpatterns = [
    *routes("admin/failover/<str:code>", api.Status.as_view(), "failover-status"),
    *routes("admin/failover/<str:code>/plan", api.MakePlan.as_view(), "failover-plan"),
    *routes("admin/failover/<str:code>/activate-dr", api.ActivateDr.as_view(), "activate-dr"),
    *routes("admin/failover/<str:code>/failback", api.Failback.as_view(), "failback"),
    *routes("admin/failover/<str:code>/cancel", api.Cancel.as_view(), "failover-cancel"),
    *routes("admin/failover/<str:code>/force", api.Force.as_view(), "failover-force"),
    *routes("admin/failover/<str:code>/resume", api.Resume.as_view(), "failover-resume"),
    *routes("admin/failover/<str:code>/loss-manifest", api.LossManifests.as_view(), "loss-manifests"),
    *routes("admin/failover/<str:code>/loss-manifest/<str:identifier>/accept", api.AcceptLoss.as_view(), "loss-accept"),
    *routes("admin/failover/<str:code>/history", api.History.as_view(), "failover-history"),
]
