//! Joins that must be refused: because of the pot, this machine, the way to the healthy master, or the cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bundle_spec::{Arch, KubeVersion, Manifest, SigningKey};

use super::{Refusal, nothing};
use crate::checks;
use crate::cluster;
use crate::forge::Mint;
use crate::node::Node;
use crate::pot::POT_DIR;
use crate::scenario::Bench;
use crate::sh;
use crate::ssh_trust;
use crate::wait;

/// Where a wrong pot lies on the backup machine.
const WRONG_POT: &str = "/root/wrong.pot";
const JOIN: &str = "./kpot-install join-master --healthy M1 --yes";
/// The one row that a clock of its own is needed for. Containers have that of this machine: a time namespace leaves
/// CLOCK_REALTIME alone, setting it would set this machine's, and a static program takes no other clock from a library.
/// Under a hypervisor it is played as it is.
const CLOCK: &str = "clock-skew";
const JOIN_WRONG_POT: &str = "./kpot-install join-master --pot /root/wrong.pot --healthy M1 --yes";

/// The one row that wants a cluster with Docker.
pub(super) const OTHER_DOCKER: &str = "other-cgroup-driver";
/// The same where the cluster has containerd.
pub(super) const OTHER_CONTAINERD: &str = "containerd-cgroup-driver";
/// Rows with a pot of an era whose runtime is Docker: they are about clusters that had to leave it behind.
const DOCKER_POTS: [&str; 2] = ["older-pot", "docker-pot"];
/// The first minor version without dockershim.
const WITHOUT_DOCKERSHIM: u16 = 24;
/// The last era with Docker.
const DOCKER_ERA: &str = "v1.20.2";
const OLDER_SIGNERS: &str = "/root/older_signers";
const JOIN_OLDER_POT: &str = "./kpot-install join-master --pot /root/wrong.pot --signers /root/older_signers --healthy M1 --yes";

const OWN_DOCKER: &str = "[Service]
Type=notify
ExecStart=/usr/local/bin/dockerd
Delegate=yes
KillMode=process

[Install]
WantedBy=multi-user.target
";

/// All of them, as a table: name, what it is, exit status, words of the error, what is typed, how it is made and unmade.
#[rustfmt::skip]
pub fn joins() -> Vec<Refusal> {
    let row = |name, about, status, says, command, prepare, undo| Refusal {
        group: "refusals",
        name,
        about,
        masters: 2,
        oldest_minor: if DOCKER_POTS.contains(&name) { WITHOUT_DOCKERSHIM } else { 0 },
        own_kernels: name == CLOCK,
        prepare,
        command,
        status,
        says,
        undo,
        late: false,
        whole: None,
        asked: false,
        outcome: None,
    };
    vec![
        row("untrusted-signer", "the pot's signer is not trusted here", 4, &["SHA256:", "trusted_signers", "ssh-ed25519"][..], JOIN,
            |bench| bench.b1().run("mv /etc/kpot/trusted_signers /root/trusted_signers"),
            |bench| bench.b1().run("mv /root/trusted_signers /etc/kpot/trusted_signers")),
        row("other-signer", "a pot signed by somebody else", 4, &["SHA256:", "not trusted"], JOIN_WRONG_POT,
            |bench| wrong_pot(bench, |mint, _| mint.forge("other.pot", Some(&SigningKey::generate()?), |_| ())),
            remove_wrong_pot),
        row("unsigned", "a pot without a signature", 4, &["not signed"], JOIN_WRONG_POT,
            |bench| wrong_pot(bench, |mint, _| mint.forge("unsigned.pot", None, |_| ())),
            remove_wrong_pot),
        row("flipped", "a pot with one bit flipped", 4, &["damaged or was changed"], JOIN_WRONG_POT,
            |bench| wrong_pot(bench, |mint, _| mint.flipped("flipped.pot")),
            remove_wrong_pot),
        row("flipped-unpacked", "an unpacked pot with one byte of a blob changed", 4, &["damaged or was changed"], JOIN,
            |bench| bench.b1().run(&format!(
                "cd {POT_DIR}/blobs/sha256; f=$(ls | head -n 1); cp -p $f /root/blob; printf x | \
                 dd of=$f bs=1 seek=$(($(stat -c %s $f) / 2)) conv=notrunc status=none; ! cmp -s $f /root/blob")),
            |bench| bench.b1().run(&format!("cd {POT_DIR}/blobs/sha256; cp -p /root/blob $(ls | head -n 1); rm /root/blob"))),
        row("truncated", "half a pot", 4, &["damaged"], JOIN_WRONG_POT,
            |bench| wrong_pot(bench, |mint, _| mint.truncated("truncated.pot")),
            remove_wrong_pot),
        row("two-pots", "two pots beside the program", 2, &["2 pots", "--pot"], "mkdir -p /root/two && cd /root/two && ./kpot-install join-master --healthy M1 --yes",
            |bench| bench.b1().run(&format!("mkdir /root/two; cp {POT_DIR}/kpot-install /root/two/; touch /root/two/a.pot /root/two/b.pot")),
            |bench| bench.b1().run("rm -r /root/two")),
        row("missing-pot", "a pot that is not where it is said to be", 2, &["no pot /root/none.pot"], "./kpot-install join-master --pot /root/none.pot --healthy M1 --yes",
            nothing, nothing),
        row("directory", "a folder that is no unpacked pot and holds none", 2, &["no pot in /root/folder", "--pot"], "./kpot-install join-master --pot /root/folder --healthy M1 --yes",
            |bench| bench.b1().run("mkdir /root/folder; echo x >/root/folder/notes"),
            |bench| bench.b1().run("rm -r /root/folder")),
        row("other-format", "a pot of a format of tomorrow", 4, &["has format 2", "README.txt", "kpot-install"], JOIN,
            |bench| bench.b1().run(&format!(
                "cd {POT_DIR}; cp -p manifest.json /root/manifest.json; sed -i 's/\"format\": 1,/\"format\": 2,/' manifest.json
                 ! cmp -s manifest.json /root/manifest.json")),
            |bench| bench.b1().run(&format!("cp -p /root/manifest.json {POT_DIR}/manifest.json; rm /root/manifest.json"))),
        row("no-pot", "no pot beside the program", 2, &["no pot", "--pot"], "cd /root/none && ./kpot-install join-master --healthy M1 --yes",
            |bench| bench.b1().run(&format!("mkdir /root/none; cp {POT_DIR}/kpot-install /root/none/")),
            |bench| bench.b1().run("rm -r /root/none")),
        row("not-root", "somebody other than root", 3, &["root", "sudo"],
            "chmod 0755 /root && su ops -c './kpot-install join-master --healthy M1 --yes'",
            |bench| bench.b1().run("chmod 0755 /root"),
            |bench| bench.b1().run("chmod 0700 /root")),
        row("other-version", "a pot of another Kubernetes version", 3, &["kpot build --k8s"], JOIN_WRONG_POT,
            |bench| wrong_pot(bench, |mint, key| mint.forge("version.pot", Some(key), |manifest| {
                manifest.kubernetes = KubeVersion::new(1, manifest.kubernetes.minor + 1, manifest.kubernetes.patch);
            })),
            remove_wrong_pot),
        row("other-patch", "a pot of the next patch, without the images of the cluster's own", 3, &["kpot build --k8s"], JOIN_WRONG_POT,
            |bench| wrong_pot(bench, |mint, key| mint.forge("patch.pot", Some(key), to_next_patch)),
            remove_wrong_pot),
        row("older-pot", "the pot of an era that ran on Docker", 3, &["the cluster runs Kubernetes", "this pot holds v1.20.2", "kpot build --k8s"], JOIN_OLDER_POT,
            |bench| {
                let older = bench.pot_of(DOCKER_ERA)?;
                bench.b1().copy(&older.file, WRONG_POT)?;
                bench.b1().write(OLDER_SIGNERS, &older.signers_line(), 0o600)
            },
            |bench| {
                bench.b1().run(&format!("rm {OLDER_SIGNERS}"))?;
                remove_wrong_pot(bench)
            }),
        row("docker-pot", "a pot with Docker that says it is of the cluster's version", 3, &["does not speak with Docker", "kpot build --k8s"], JOIN_WRONG_POT,
            |bench| {
                let mint = Mint::new(&bench.pot_of(DOCKER_ERA)?, &bench.folder("refusals"))?;
                let version = bench.version();
                let pot = mint.forge("docker.pot", Some(&signing_key(bench)?), |manifest| {
                    manifest.kubernetes = KubeVersion::new(version.major, version.minor, version.patch);
                })?;
                bench.b1().copy(&pot, WRONG_POT)
            },
            remove_wrong_pot),
        row("other-architecture", "a pot for other processors", 3, &["is for arm64", "x86_64", "kpot build --arch"], JOIN_WRONG_POT,
            |bench| wrong_pot(bench, |mint, key| mint.forge("arch.pot", Some(key), |manifest| manifest.arch = Arch::Arm64)),
            remove_wrong_pot),
        row("pod-network-image", "a pot without the image of the cluster's pod network", 3, &["flannel", "--image"], JOIN_WRONG_POT,
            |bench| wrong_pot(bench, |mint, key| mint.forge("network.pot", Some(key), |manifest| {
                manifest.images.retain(|image| !image.names.iter().any(|name| name.contains("flannel")));
            })),
            remove_wrong_pot),
        row("name-ready", "a node of that name is Ready", 3, &["m2", "--node-name"], "./kpot-install join-master --healthy M1 --node-name m2 --yes",
            nothing, nothing),
        row("name-ready-by-sudo", "the same, asked as a user who becomes root by sudo", 3, &["m2", "--node-name"],
            "./kpot-install join-master --healthy M1 --ssh-user ops --node-name m2 --yes",
            |bench| ssh_trust::grant(&bench.b1(), bench.cluster()?.m1(), "ops"),
            nothing),
        row("unreachable", "a healthy master that answers nothing", 1, &["203.0.113.7 cannot be reached", "ssh "], "./kpot-install join-master --healthy 203.0.113.7 --yes",
            nothing, nothing),
        row("unknown-host-key", "a healthy master whose host key nobody knows", 1, &["is not known here", "--host-key"], JOIN,
            |bench| ssh_trust::know_nobody(&bench.b1()),
            know_m1),
        row("changed-host-key", "a healthy master with another host key than known", 1, &["is not the one that is known", "--host-key"], JOIN,
            |bench| ssh_trust::know(&bench.b1(), bench.cluster()?.m1(), &bench.b1()),
            know_m1),
        row("no-access", "a healthy master that does not let us in", 1, &["refused to let root in", "--identity"], JOIN,
            |bench| ssh_trust::revoke(&bench.b1(), bench.cluster()?.m1()),
            |bench| ssh_trust::grant(&bench.b1(), bench.cluster()?.m1(), "root")),
        row("no-sudo", "a user of the healthy master who must give a password for sudo and has none to give", 1, &["sudo", "--ask-pass"],
            "./kpot-install join-master --healthy M1 --ssh-user opspw --yes",
            |bench| ssh_trust::grant(&bench.b1(), bench.cluster()?.m1(), "opspw"),
            nothing),
        row("wrong-password", "a user of the healthy master whose password for sudo is another one", 1, &["may not become root", "--ask-pass"],
            "echo lab-nobody | ./kpot-install join-master --healthy M1 --ssh-user opspw --ask-pass --yes",
            |bench| ssh_trust::grant(&bench.b1(), bench.cluster()?.m1(), "opspw"),
            nothing),
        row("not-a-master", "a healthy master that is none", 3, &["master"], "./kpot-install join-master --healthy 127.0.0.1 --yes",
            |bench| {
                ssh_trust::grant(&bench.b1(), &bench.b1(), "root")?;
                bench.b1().run("printf '127.0.0.1 %s\\n' \"$(cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub)\" >/root/.ssh/known_hosts")
            },
            know_m1),
        row("kubectl-fails", "a healthy master where kubectl fails", 3, &["kubectl"], JOIN,
            |bench| bench.cluster()?.m1().run("mv /etc/kubernetes/admin.conf /root/admin.conf; echo '{}' >/etc/kubernetes/admin.conf"),
            |bench| bench.cluster()?.m1().run("mv /root/admin.conf /etc/kubernetes/admin.conf")),
        row("certificates-uploaded", "somebody else may be joining", 3, &["kubeadm-certs"], JOIN,
            |bench| bench.cluster()?.kubectl(&["-n", "kube-system", "create", "secret", "generic", "kubeadm-certs", "--from-literal=a=b"]).map(drop),
            |bench| bench.cluster()?.revoke()),
        row("no-tokens", "a cluster that was hardened until no token lets a machine in", 3, &["kube-public/cluster-info", "create rolebinding", "not approved by itself", "create clusterrolebinding"], JOIN,
            |bench| {
                let cluster = bench.cluster()?;
                cluster.kubectl(&["-n", "kube-public", "delete", "rolebinding", "kubeadm:bootstrap-signer-clusterinfo"])?;
                cluster.kubectl(&["delete", "clusterrolebinding", "kubeadm:node-autoapprove-bootstrap"]).map(drop)
            },
            let_tokens_in),
        row("stale-member", "etcd lists a dead member with our name and address", 3, &["stale", "rebirth"], JOIN,
            |bench| {
                let peer = format!("https://{}:2380", bench.b1().address());
                bench.cluster()?.etcdctl(&["member", "add", "b1", &format!("--peer-urls={peer}")]).map(drop)
            },
            remove_stale_member),
        row("no-quorum", "etcd has no quorum", 3, &["etcd has no quorum", "etcd has lost its quorum"], JOIN,
            |bench| pause_m2(bench), |bench| unpause_m2(bench)),
        row("small-disk", "a disk too small for what the pot holds", 3, &["available", "are needed", "make room"], JOIN,
            |bench| bench.b1().run(&format!("mkdir -p {0}; mount -t tmpfs -o size=64m lab-small-disk {0}", bench.runtime().data())),
            |bench| bench.b1().run(&format!("umount {0}; rmdir {0}", bench.runtime().data()))),
        row(CLOCK, "a clock that is a minute and a half ahead of the healthy master's", 3, &["ahead of the healthy master's", "date --utc --set"], JOIN,
            |bench| bench.b1().run("date --set '+90 seconds' >/dev/null"),
            |bench| bench.b1().run("date --set '-90 seconds' >/dev/null")),
        // Last: the machine is not bare afterwards.
        row(OTHER_CONTAINERD, "a containerd that is here already and makes its cgroups in another way", 3,
            &["containerd-binaries, containerd-config, containerd-service: another containerd is installed", "its cgroup driver is systemd", "SystemdCgroup = false"], JOIN,
            |bench| {
                let b1 = bench.b1();
                cluster::install_unlike_containerd(&b1, bench.materials())?;
                // Whoever asks for its version first makes it write down an ID of its own.
                b1.run("ctr version")?;
                stand_still(&b1, "/var/lib/containerd /etc/containerd")
            },
            |bench| {
                bench.backup_used();
                Ok(())
            }),
        row(OTHER_DOCKER, "a Docker that is here already and makes its cgroups in another way", 3,
            &["docker-binaries, docker-config, docker-service: another Docker is installed", "is wanted", "native.cgroupdriver="], JOIN,
            |bench| own_docker(bench),
            |bench| {
                bench.backup_used();
                Ok(())
            }),
    ]
}

/// A pot of the next patch, as a real one is: the control plane's images are of that patch, too.
fn to_next_patch(manifest: &mut Manifest) {
    let own = manifest.kubernetes;
    let next = KubeVersion::new(own.major, own.minor, own.patch + 1);
    manifest.kubernetes = next;
    for name in manifest
        .images
        .iter_mut()
        .flat_map(|image| &mut image.names)
    {
        *name = name.replace(&format!(":{own}"), &format!(":{next}"));
    }
}

fn wrong_pot(
    bench: &mut Bench,
    make: impl FnOnce(&Mint, &SigningKey) -> Result<std::path::PathBuf>,
) -> Result<()> {
    let mint = Mint::new(bench.pot(), &bench.folder("refusals"))?;
    let key = signing_key(bench)?;
    bench.b1().copy(&make(&mint, &key)?, WRONG_POT)
}

/// The key that the backup machine trusts.
fn signing_key(bench: &Bench) -> Result<SigningKey> {
    SigningKey::from_openssh(&sh::read_text(&bench.pot().key)?)
        .context("reading the lab's signing key")
}

fn remove_wrong_pot(bench: &mut Bench) -> Result<()> {
    sh::remove(&bench.folder("refusals"))?;
    bench.b1().run(&format!("rm -f {WRONG_POT}"))
}

/// A Docker that an administrator put beside the distribution's programs, with another cgroup driver than the cluster's.
fn own_docker(bench: &Bench) -> Result<()> {
    const DRIVER: &str = "docker info --format '{{.CgroupDriver}}'";
    let b1 = bench.b1();
    let driver = match bench.cluster()?.m1().output(DRIVER)?.as_str() {
        "systemd" => "cgroupfs",
        _ => "systemd",
    };
    b1.copy(bench.materials().runtime.archive(), "/root/docker.tgz")?;
    b1.write("/etc/systemd/system/docker.service", OWN_DOCKER, 0o644)?;
    let config = format!(r#"{{"exec-opts": ["native.cgroupdriver={driver}"], "iptables": false}}"#);
    b1.write("/etc/docker/daemon.json", &config, 0o644)?;
    b1.run(
        "tar -xzf /root/docker.tgz -C /usr/local/bin --strip-components=1 --no-same-owner; rm /root/docker.tgz
         systemctl daemon-reload
         systemctl enable --quiet --now docker.service",
    )?;
    let is = b1.output(DRIVER)?;
    ensure!(is == driver, "that Docker runs with the cgroup driver {is}");
    stand_still(&b1, "/var/lib/docker /etc/docker")
}

/// A runtime's first writes are done some seconds after it answers; what is compared must stand still.
fn stand_still(node: &Node, folders: &str) -> Result<()> {
    wait::until(
        "the runtime's files stand still",
        Duration::from_mins(1),
        || {
            let moved =
                node.output(&format!("find {folders} -newermt '-3 seconds' | head -n 1"))?;
            Ok((!moved.is_empty()).then_some(moved))
        },
    )
}

fn know_m1(bench: &mut Bench) -> Result<()> {
    let m1 = bench.cluster()?.m1().clone();
    ssh_trust::know(&bench.b1(), &m1, &m1)
}

/// What the refusal says to type.
fn let_tokens_in(bench: &mut Bench) -> Result<()> {
    let cluster = bench.cluster()?;
    cluster.kubectl(&[
        "--namespace",
        "kube-public",
        "create",
        "rolebinding",
        "kubeadm:bootstrap-signer-clusterinfo",
        "--role=kubeadm:bootstrap-signer-clusterinfo",
        "--user=system:anonymous",
    ])?;
    cluster
        .kubectl(&[
            "create",
            "clusterrolebinding",
            "kubeadm:node-autoapprove-bootstrap",
            "--clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            "--group=system:bootstrappers:kubeadm:default-node-token",
        ])
        .map(drop)
}

fn remove_stale_member(bench: &mut Bench) -> Result<()> {
    let cluster = bench.cluster()?;
    let b1 = bench.b1();
    wait::until(
        "etcd lets the stale member go",
        Duration::from_mins(1),
        || {
            let stale = checks::members(cluster)?
                .into_iter()
                .find(|member| member.peer_url.contains(b1.address()));
            let Some(stale) = stale else { return Ok(None) };
            Ok(Some(
                cluster
                    .etcdctl(&["member", "remove", &stale.id])
                    .unwrap_or_else(|error| format!("{error:#}")),
            ))
        },
    )
}

/// Without the kubelet, which would soon start another etcd in the place of one that does not answer.
fn pause_m2(bench: &Bench) -> Result<()> {
    bench.lab().m2().run(&format!(
        "systemctl stop kubelet
         {}",
        bench.runtime().pause("etcd")
    ))
}

fn unpause_m2(bench: &Bench) -> Result<()> {
    bench.lab().m2().run(&format!(
        "{}
         systemctl start kubelet",
        bench.runtime().resume("etcd")
    ))?;
    let cluster = bench.cluster()?;
    let m2 = bench.lab().m2();
    wait::until("the cluster is whole again", Duration::from_mins(2), || {
        let whole = checks::etcd_voters(cluster, &m2, bench.masters())
            .and_then(|()| checks::control_plane_node(cluster, &m2));
        Ok(whole.err().map(|error| format!("{error:#}")))
    })
}
