//! Whether a controller manager of the cluster is at work.
//!
//! A join needs one twice: it signs cluster-info with the new token, and the kubelet's certificate. Up to 1.19.0 kubeadm lets the controller managers ask the
//! cluster's endpoint, so with a dead endpoint none of them works; they end, and the kubelet starts them again after pauses of up to five minutes. The one that leads
//! renews a record in the cluster every two seconds, and that is what is looked at: two looks, and no clock.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::ClusterView;
use super::containers::listing;
use super::objects::Data;
use crate::signals::Stop;

/// The kubelet's longest pause before it starts a container again, the election, and a margin.
pub const PATIENCE: Duration = Duration::from_mins(7);

/// Between two looks: longer than a leader takes to renew.
pub const PAUSE: Duration = Duration::from_secs(3);

/// Where the record is up to 1.19.
const ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

#[derive(Deserialize)]
struct Lease {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    renew_time: String,
}

/// When the leader renewed its record, in whatever form; nothing where there is no record.
fn renewed(view: &ClusterView) -> Result<Option<String>> {
    let place = ["kube-controller-manager", "--namespace", "kube-system"];
    let lease: Option<Lease> =
        view.find(&["leases.coordination.k8s.io", place[0], place[1], place[2]])?;
    let endpoints: Option<Data> = view.find(&["endpoints", place[0], place[1], place[2]])?;
    let annotation =
        endpoints.and_then(|endpoints| endpoints.metadata.annotations.get(ANNOTATION).cloned());
    let lease = lease.map(|lease| lease.spec.renew_time);
    Ok((lease.is_some() || annotation.is_some()).then(|| {
        format!(
            "{} {}",
            lease.unwrap_or_default(),
            annotation.unwrap_or_default()
        )
    }))
}

/// Waits until a controller manager leads. Where they keep no record there is nothing to wait for.
///
/// # Errors
/// None leads after `patience`, or `stop` says so.
pub fn await_leader(
    view: &ClusterView,
    stop: &Stop,
    patience: Duration,
    pause: Duration,
) -> Result<()> {
    let clock = view.clock();
    let deadline = clock.now() + patience;
    let Some(before) = renewed(view)? else {
        return Ok(());
    };
    loop {
        clock.pause(pause);
        stop.check()?;
        // A moment without an answer is part of an API server that comes back.
        match renewed(view) {
            Ok(Some(now)) if now == before => {}
            Ok(_) => return Ok(()),
            Err(_) if clock.now() < deadline => {}
            Err(cause) => return Err(cause),
        }
        if clock.now() >= deadline {
            bail!(
                "no controller manager of the cluster has been at work for {} s: without one, nothing signs what a join needs. See on {}: {}; and the logs of kube-controller-manager, with its ID",
                patience.as_secs(),
                view.address(),
                listing(None)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::scripted::Scripted;

    const LEASE: &str = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 20s get leases.coordination.k8s.io kube-controller-manager";
    const ENDPOINTS: &str = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 20s get endpoints kube-controller-manager";

    fn lease(time: &str) -> String {
        format!(
            r#"{{"metadata":{{"name":"kube-controller-manager"}},"spec":{{"renewTime":"{time}"}}}}"#
        )
    }

    fn endpoints(time: &str) -> String {
        format!(
            r#"{{"metadata":{{"name":"kube-controller-manager","annotations":{{"{ANNOTATION}":"{{\"renewTime\":\"{time}\"}}"}}}}}}"#
        )
    }

    fn wait(script: Scripted, patience: Duration) -> Result<()> {
        let view = ClusterView::new(Arc::new(script), "10.0.0.11");
        await_leader(&view, &Stop::default(), patience, Duration::ZERO)
    }

    #[test]
    fn a_record_that_moves_on_is_that_of_a_leader_at_work() {
        let (one, two) = (lease("1"), lease("2"));
        let new = Scripted::new()
            .once_each(
                LEASE,
                [(0, one.as_str()), (0, one.as_str()), (0, two.as_str())],
            )
            .on(ENDPOINTS, 0, "");
        wait(new, Duration::from_mins(1)).unwrap();
        let (one, two) = (endpoints("1"), endpoints("2"));
        let old = Scripted::new().on(LEASE, 0, "").once_each(
            ENDPOINTS,
            [(0, one.as_str()), (1, "refused"), (0, two.as_str())],
        );
        wait(old, Duration::from_mins(1)).unwrap();
    }

    #[test]
    fn a_record_that_stands_still_is_nobodys_work_and_none_at_all_is_not_waited_for() {
        let still = lease("1");
        let script = || Scripted::new().on(LEASE, 0, &still).on(ENDPOINTS, 0, "");
        let error = wait(script(), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("controller manager"), "{error}");
        let none = Scripted::new().on(LEASE, 0, "").on(ENDPOINTS, 0, "");
        wait(none, Duration::ZERO).unwrap();
    }
}
