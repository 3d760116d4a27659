//! Ways in which a master dies, each from the outside, and what must be true of it then.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Bench;
use crate::checks;
use crate::cluster::Cluster;
use crate::lab::Bare;
use crate::node::Node;
use crate::sh::{self, Sh};
use crate::ssh_trust;
use crate::wait;

/// Elections take seconds; a kubelet looks for changed manifests at least every 20 s, and kills with a grace of 30 s.
const LIMIT: Duration = Duration::from_mins(2);

/// Where kubeadm keeps certificates and keys.
const PKI: &str = "/etc/kubernetes/pki";

/// m3 loses its disk while it follows.
pub fn wipe_follower(bench: &mut Bench) -> Result<()> {
    let (cluster, m3) = (bench.cluster()?, bench.m3());
    if checks::leader(cluster)?.name == m3.name() {
        checks::make_leader(cluster, cluster.m1())?;
    }
    wipe(bench)
}

/// m3 loses its power and its disk while it leads.
pub fn wipe_leader(bench: &mut Bench) -> Result<()> {
    checks::make_leader(bench.cluster()?, &bench.m3())?;
    power_off(bench)?;
    let (cluster, m3) = (bench.cluster()?, bench.m3());
    wait::until("another member leads etcd", LIMIT, || {
        Ok(match checks::leader(cluster) {
            Ok(leader) => (leader.name == m3.name()).then(|| "m3 leads".to_owned()),
            Err(error) => Some(format!("{error:#}")),
        })
    })?;
    wipe(bench)
}

/// The same name and address on an empty disk; the cluster still lists the old one.
fn wipe(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    bench.used(&m3);
    bench.pot_on(&m3, Bare::Full)?;
    let cluster = bench.cluster()?;
    ensure!(
        checks::member_of(cluster, &m3)?.is_some(),
        "etcd no longer lists m3: what is to be shown is not there"
    );
    cluster.kubectl(&["get", "node", m3.name()]).map(drop)
}

/// m3 loses its power.
pub fn power_off(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    bench.used(&m3);
    bench.lab().power_off(&m3)?;
    silent(bench.cluster()?, &m3)
}

/// The same, and before it m3's kubelet has taken another address of its machine for the Node, as one does that is not told and whose default route goes by another card.
pub fn power_off_elsewhere(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    let (network, own) = m3
        .address()
        .rsplit_once('.')
        .context("a node's address has dots")?;
    let other = format!("{network}.1{own}");
    m3.run(&format!(
        "card=$(ip -o address show to {} | awk '{{ print $2; exit }}')
         ip address add {other}/24 dev \"$card\"
         sed -i 's/\"\\?$/ --node-ip={other}&/' /var/lib/kubelet/kubeadm-flags.env
         systemctl restart kubelet",
        m3.address()
    ))?;
    let cluster = bench.cluster()?;
    wait::until("the node m3 has the other address", LIMIT, || {
        let node = cluster.kubectl_json(&["get", "node", m3.name()])?;
        let addresses = node["status"]["addresses"].to_string();
        Ok(
            (!addresses.contains(&other) || addresses.contains(&format!("\"{}\"", m3.address())))
                .then_some(addresses),
        )
    })?;
    power_off(bench)
}

/// Rubbish is written over the beginnings of the files that m3's etcd keeps its data in, and it crashes on them.
pub fn corrupt_etcd(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    bench.pot_beside(&m3)?;
    stop_etcd(bench.cluster()?, &m3)?;
    let runtime = bench.runtime();
    m3.run(&format!(
        "for file in /var/lib/etcd/member/snap/db /var/lib/etcd/member/wal/*.wal; do
             dd if=/dev/urandom of=$file bs=64K count=1 conv=notrunc status=none
         done
         {}
         mv /root/etcd.yaml /etc/kubernetes/manifests/",
        runtime.remove("etcd")
    ))?;
    wait::until("etcd on m3 crashes", LIMIT, || {
        let crashed = m3.output(&runtime.ended("etcd"))?;
        Ok(crashed
            .is_empty()
            .then(|| "none of its containers has ended".to_owned()))
    })?;
    silent(bench.cluster()?, &m3)
}

/// m3 has no certificates any more, and what needs them is started again.
pub fn delete_certificates(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    bench.pot_beside(&m3)?;
    m3.run(&format!("rm -rf {PKI}"))?;
    start_anew(bench, &m3)
}

/// The certificates of m3's etcd and API server are out of date, and what needs them is started again.
pub fn expire_certificates(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    bench.pot_beside(&m3)?;
    let folder = bench.folder("expired");
    sh::remove(&folder)?;
    sh::make_dirs(&folder)?;
    for (ca, names) in [
        ("etcd/ca", &["etcd/server", "etcd/peer"][..]),
        ("ca", &["apiserver"]),
    ] {
        let here = |file: &str| folder.join(file.replace('/', "-"));
        let fetch = |file: &str| m3.fetch(&format!("{PKI}/{file}"), &here(file));
        for file in [format!("{ca}.crt"), format!("{ca}.key")] {
            fetch(&file)?;
        }
        for name in names {
            let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
            let certificate = format!("{name}.crt");
            fetch(&key)?;
            Sh::new("openssl")
                .args(["req", "-new", "-subj", &format!("/CN={m3}"), "-key"])
                .arg(here(&key))
                .arg("-out")
                .arg(here(&request))
                .run()?;
            Sh::new("openssl")
                .args(["x509", "-req", "-days", "-1", "-CAcreateserial", "-in"])
                .arg(here(&request))
                .arg("-CA")
                .arg(here(&format!("{ca}.crt")))
                .arg("-CAkey")
                .arg(here(&format!("{ca}.key")))
                .arg("-out")
                .arg(here(&certificate))
                .run()?;
            m3.copy(&here(&certificate), &format!("{PKI}/{certificate}"))?;
        }
    }
    sh::remove(&folder)?;
    start_anew(bench, &m3)
}

/// Removes the containers of etcd and the API server, so that their next ones read the certificates as they are now.
fn start_anew(bench: &mut Bench, node: &Node) -> Result<()> {
    let runtime = bench.runtime();
    node.run(&format!(
        "{}
         {}",
        runtime.remove("etcd"),
        runtime.remove("kube-apiserver")
    ))?;
    silent(bench.cluster()?, node)
}

/// m3's kubelet has no configuration and no credentials any more; what it started goes on without it.
pub fn delete_kubelet_config(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    bench.pot_beside(&m3)?;
    m3.run(
        "systemctl stop kubelet
         rm /var/lib/kubelet/config.yaml /etc/kubernetes/kubelet.conf
         systemctl start kubelet",
    )?;
    not_ready(bench.cluster()?, &m3)
}

/// Of m3's control plane only its certificates are left, and etcd's data are gone.
pub fn leave_a_part(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    bench.pot_beside(&m3)?;
    stop_etcd(bench.cluster()?, &m3)?;
    m3.run("rm -rf /etc/kubernetes/manifests /etc/kubernetes/admin.conf /root/etcd.yaml; find /var/lib/etcd -mindepth 1 -delete")
}

/// m3 loses its disk, and somebody has removed its member already; its Node is still there.
pub fn wipe_without_member(bench: &mut Bench) -> Result<()> {
    wipe_follower(bench)?;
    bench.remove_member(&bench.m3())
}

/// m3 loses its disk, and a join that failed has left a member there that never started.
pub fn wipe_with_unstarted_member(bench: &mut Bench) -> Result<()> {
    leave_member(bench, &[])
}

/// The same with a learner, as kubeadm adds members today.
pub fn wipe_with_learner(bench: &mut Bench) -> Result<()> {
    leave_member(bench, &["--learner"])
}

fn leave_member(bench: &mut Bench, flags: &[&str]) -> Result<()> {
    wipe_without_member(bench)?;
    let m3 = bench.m3();
    let peer = format!("https://{}:2380", m3.address());
    bench.add_member(m3.name(), &peer, flags)
}

/// m3 is in good health.
pub fn none(bench: &mut Bench) -> Result<()> {
    bench.pot_beside(&bench.m3())
}

/// m3's etcd is stopped; its kubelet lives and its SSH answers, to the backup machine as well.
pub fn half_dead(bench: &mut Bench) -> Result<()> {
    let m3 = bench.m3();
    ssh_trust::grant(&bench.b1(), &m3, "root")?;
    stop_etcd(bench.cluster()?, &m3)
}

/// Takes etcd's manifest away from a master: its kubelet then stops it.
pub fn stop_etcd(cluster: &Cluster, node: &Node) -> Result<()> {
    node.run("mv /etc/kubernetes/manifests/etcd.yaml /root/etcd.yaml")?;
    wait::until(&format!("etcd on {node} has stopped"), LIMIT, || {
        let runs = node.output(&cluster.spec().runtime.running("etcd"))?;
        Ok((!runs.is_empty()).then(|| format!("container {runs} runs")))
    })?;
    silent(cluster, node)
}

/// Gives the manifest back and waits until the master is healthy. A kubelet that starts anew does not know how often the
/// API server failed meanwhile, and does not wait for minutes before it tries again.
pub fn start_etcd(cluster: &Cluster, node: &Node) -> Result<()> {
    node.run(
        "mv /root/etcd.yaml /etc/kubernetes/manifests/etcd.yaml
         systemctl restart kubelet",
    )?;
    healthy_again(cluster, node)
}

/// Waits until a master that was started again is healthy; its API server starts over once it has missed its etcd.
pub fn healthy_again(cluster: &Cluster, node: &Node) -> Result<()> {
    wait::until(&format!("{node} is a healthy master"), LIMIT * 2, || {
        let healthy = checks::healthy_master(cluster, node);
        Ok(healthy.err().map(|error| format!("{error:#}")))
    })
}

/// Waits until the cluster says that a node is not Ready.
fn not_ready(cluster: &Cluster, node: &Node) -> Result<()> {
    wait::until(&format!("{node} is not Ready"), LIMIT, || {
        let ready = checks::impatiently(|| checks::control_plane_node(cluster, node).is_ok());
        Ok(ready.then(|| "it is Ready".to_owned()))
    })
}

/// Waits until a master's etcd answers nobody.
pub fn silent(cluster: &Cluster, node: &Node) -> Result<()> {
    wait::until(&format!("etcd on {node} is silent"), LIMIT, || {
        Ok(checks::etcd_answers(cluster, node).then(|| "it answers".to_owned()))
    })
}
