//! What `kpot init` writes.

/// A recipe with every field, all but the version commented out. With the marks of the comments taken away from its examples it is a recipe, too.
pub const TEMPLATE: &str = r#"# What `kpot build` makes a pot of. Each line stands for the flag of `kpot build --help` of the same name; a flag on the command line
# wins, and what is a list there is added to the one here. `kpot schema` prints the JSON schema of this file, for editors.
#
# With `kpot lock`, every download and image is pinned by its digest in kpot.lock, and a build makes the same bytes again.

# The Kubernetes version of the cluster: v1.20.2, or "1.20" for its latest patch, or stable for the latest of all.
k8s: "1.20"

# The architectures of the machines that pots are made for, one pot for each.
#arch:
#  - amd64

# Images that the cluster needs besides its control plane, its pod network's for example.
#images:
#  - ghcr.io/flannel-io/flannel:v0.28.4
#  - registry.example.com/team/tool:v1

# Files to carry besides, for people: `kpot extract` writes them out, and nothing installs, runs or applies them. A path is seen from
# this file's folder. A file from an address needs its digest.
#files:
#  - path: manifests/kube-flannel.yml
#  - name: runbook.txt
#    path: /srv/docs/runbook.txt
#    digest: sha256:0000000000000000000000000000000000000000000000000000000000000000
#  - url: https://files.example.com/tools/v2/etcd-defrag
#    digest: sha256:0000000000000000000000000000000000000000000000000000000000000000
#    version: v2

# Everything on a host is fetched from another address instead, downloads and images alike.
#mirrors:
#  registry.k8s.io: https://mirror.example.com/k8s
#  dl.k8s.io: https://mirror.example.com/dl

# The digest that a download must have, before any published one: cni-plugins, containerd, crictl, docker, kubeadm, kubectl, kubelet,
# runc. NAME/ARCH is for one architecture.
#pins:
#  docker: sha256:0000000000000000000000000000000000000000000000000000000000000000

# The container runtime: docker up to Kubernetes 1.23, or containerd from 1.14 on. Without it docker as far as it goes, then containerd.
#runtime: docker

# Other versions than the defaults for this Kubernetes, which `kpot versions` shows; those of the other runtime are refused.
#docker-version: 20.10.24
#containerd-version: 1.7.30
#runc-version: 1.3.4
#crictl-version: v1.30.0
#cni-version: v1.7.1

# How hard to compress (fast, balanced or max), and whether layers of images stay as their registry has them.
#compression: balanced
#verbatim: false

# A pot of the same name with a larger serial replaces one with a smaller serial.
#serial: 1
"#;
