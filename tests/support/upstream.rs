//! Publishers' servers in miniature: everything that a pot of one version needs, in the publishers' layout.

use bundle_spec::Sha256;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::Digest as _;
use std::io::Write as _;

use super::server::{Answer, Server};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const GZIP_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A server with everything for v1.14.0 or v1.20.2, with Docker or containerd, or for v1.34.4, with containerd.
pub struct Upstream {
    pub server: Server,
    version: &'static str,
    docker: Sha256,
    /// Whether a pot is asked for with containerd.
    containerd: bool,
}

/// The versions of containerd, runc and crictl that it has.
const CONTAINERD: &str = "1.7.30";
const RUNC: &str = "1.3.4";
const CRICTL: &str = "v1.30.0";

/// An image as a registry has it.
#[derive(Clone)]
pub struct FakeImage {
    pub manifest: Value,
    pub config: Value,
    /// The layers' bytes as they are served.
    pub layers: Vec<Vec<u8>>,
}

impl Upstream {
    pub fn new(version: &'static str) -> Self {
        let server = Server::start();
        let docker = archive("docker/", &["containerd", "docker", "dockerd", "runc"]);
        let upstream = Self {
            version,
            docker: Sha256::of(&docker),
            containerd: version.starts_with("v1.34"),
            server,
        };
        for arch in ["amd64", "arm64"] {
            upstream.serve_containerd(arch);
        }
        for program in ["kubeadm", "kubectl", "kubelet"] {
            let path = upstream.program(program);
            let body = content(program, 300_000);
            let sha256 = Sha256::of(&body).hex();
            let sha512 = sha2::Sha512::digest(&body)
                .iter()
                .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            // As dl.k8s.io does: .sha512 alone up to 1.15.
            if version.starts_with("v1.14") {
                upstream.put(&format!("{path}.sha512"), sha512.into_bytes());
            } else {
                upstream.put(&format!("{path}.sha256"), sha256.into_bytes());
            }
            upstream.put(&path, body);
        }
        upstream.put(
            "/download.docker.com/linux/static/stable/x86_64/docker-20.10.24.tgz",
            docker,
        );
        let plugins = archive("./", &["bridge", "host-local", "loopback", "portmap"]);
        let name = "cni-plugins-linux-amd64-v1.7.1.tgz";
        let path = Self::plugins();
        upstream.put(
            &format!("{path}.sha256"),
            format!("{}  {name}\n", Sha256::of(&plugins).hex()).into_bytes(),
        );
        upstream.put(&path, plugins);

        let (etcd, (coredns, its_tag), pause) = match version {
            "v1.14.0" => ("3.3.10", ("coredns", "1.3.1"), "3.1"),
            "v1.34.4" => ("3.6.5-0", ("coredns/coredns", "v1.12.1"), "3.10.1"),
            _ => ("3.4.13-0", ("coredns", "1.7.0"), "3.2"),
        };
        for program in [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
        ] {
            upstream.push(program, version, &FakeImage::new(program));
        }
        for (name, tag) in [("etcd", etcd), (coredns, its_tag), ("pause", pause)] {
            upstream.push(name, tag, &FakeImage::new(name));
        }
        upstream
    }

    /// The same servers, of which a pot with containerd is asked for.
    pub fn with_containerd(version: &'static str) -> Self {
        Self {
            containerd: true,
            ..Self::new(version)
        }
    }

    /// containerd, runc and crictl, each with the checksum file that its publisher serves.
    fn serve_containerd(&self, arch: &str) {
        let programs = ["containerd", "containerd-shim-runc-v2", "containerd-stress"];
        let archives = [
            (
                Self::containerd_archive(arch),
                "sha256sum",
                archive("bin/", &[&programs[..], &["ctr"]].concat()),
            ),
            (
                Self::crictl_archive(arch),
                "sha256",
                archive("", &["crictl"]),
            ),
        ];
        for (path, ending, bytes) in archives {
            let name = path.rsplit('/').next().unwrap();
            let digest = Sha256::of(&bytes).hex();
            // crictl's checksum stands alone in its file.
            let text = match ending {
                "sha256" => digest,
                _ => format!("{digest}  {name}\n"),
            };
            self.put(&format!("{path}.{ending}"), text.into_bytes());
            self.put(&path, bytes);
        }
        self.put(&Self::runc(arch), content("runc", 70_000));
        self.put(
            &Self::runc_list(),
            Self::signed_list(&content("runc", 70_000)),
        );
    }

    /// The list of a release of runc, in which `program` is for either architecture.
    pub fn signed_list(program: &[u8]) -> Vec<u8> {
        let digest = Sha256::of(program).hex();
        let other = Sha256::of(b"another file of the release").hex();
        format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n\
             {digest}  runc.amd64\n{digest}  runc.arm64\n{other}  runc.tar.xz\n\
             -----BEGIN PGP SIGNATURE-----\n\niQEzBAEBCAAdFiEE\n-----END PGP SIGNATURE-----\n"
        )
        .into_bytes()
    }

    /// The path of containerd's archive.
    pub fn containerd_archive(arch: &str) -> String {
        format!(
            "/github.com/containerd/containerd/releases/download/v{CONTAINERD}/containerd-{CONTAINERD}-linux-{arch}.tar.gz"
        )
    }

    /// The path of crictl's archive.
    pub fn crictl_archive(arch: &str) -> String {
        format!(
            "/github.com/kubernetes-sigs/cri-tools/releases/download/{CRICTL}/crictl-{CRICTL}-linux-{arch}.tar.gz"
        )
    }

    /// The path of runc.
    pub fn runc(arch: &str) -> String {
        format!("/github.com/opencontainers/runc/releases/download/v{RUNC}/runc.{arch}")
    }

    /// The path of the list with its digests.
    pub fn runc_list() -> String {
        format!("/github.com/opencontainers/runc/releases/download/v{RUNC}/runc.sha256sum")
    }

    /// Serves everything for arm64 as well, every image behind an index of both, and gives the IDs of the images for arm64.
    pub fn add_arm64(&self) -> Vec<Sha256> {
        for program in ["kubeadm", "kubectl", "kubelet"] {
            let path = self.program(program).replace("/amd64/", "/arm64/");
            let body = content(&format!("{program} for arm64"), 300_000);
            let digest = Sha256::of(&body).hex();
            self.put(&format!("{path}.sha256"), digest.into_bytes());
            self.put(&path, body);
        }
        self.put(
            "/download.docker.com/linux/static/stable/aarch64/docker-20.10.24.tgz",
            Self::docker_for_arm64(),
        );
        let plugins = archive("./", &["bridge", "host-local", "loopback", "portmap"]);
        let path = Self::plugins().replace("-amd64-", "-arm64-");
        let digest = Sha256::of(&plugins).hex();
        self.put(&format!("{path}.sha256"), digest.into_bytes());
        self.put(&path, plugins);

        let tags = [("etcd", "3.4.13-0"), ("coredns", "1.7.0"), ("pause", "3.2")];
        let programs = [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
        ];
        let images = programs.map(|program| (program, self.version));
        let push = |(name, tag): (&str, &str)| {
            let mut other = FakeImage::new(&format!("{name}-arm64"));
            other.config["architecture"] = json!("arm64");
            other.config["variant"] = json!("v8");
            other.describe();
            self.push(name, "only-arm64", &other);
            let index = FakeImage::new(name).index_with(&other);
            self.put_manifest(name, tag, &serde_json::to_vec(&index).unwrap());
            Sha256::of(&serde_json::to_vec(&other.config).unwrap())
        };
        images.into_iter().chain(tags).map(push).collect()
    }

    /// Docker's archive for arm64, which has another digest than the one for amd64.
    fn docker_for_arm64() -> Vec<u8> {
        let programs = ["containerd", "docker", "docker-init", "dockerd", "runc"];
        archive("docker/", &programs)
    }

    /// What `--pin` is to say of it.
    pub fn arm64_pin() -> String {
        format!("docker/arm64={}", Sha256::of(&Self::docker_for_arm64()))
    }

    /// The path of a Kubernetes program.
    pub fn program(&self, name: &str) -> String {
        format!("/dl.k8s.io/release/{}/bin/linux/amd64/{name}", self.version)
    }

    /// The path of the CNI plugins.
    fn plugins() -> String {
        "/github.com/containernetworking/plugins/releases/download/v1.7.1/cni-plugins-linux-amd64-v1.7.1.tgz".to_owned()
    }

    /// Lets a marker of the release server say `text`, and gives its path.
    pub fn mark(&self, marker: &str, text: &[u8]) -> String {
        let path = format!("/dl.k8s.io/release/{marker}.txt");
        self.put(&path, text.to_vec());
        path
    }

    pub fn docker(&self) -> Sha256 {
        self.docker
    }

    pub fn put(&self, path: &str, body: Vec<u8>) {
        self.server.set(path, vec![Answer::Body(body)]);
    }

    /// Puts an image into the registry.
    pub fn push(&self, repository: &str, tag: &str, image: &FakeImage) {
        let manifest = serde_json::to_vec(&image.manifest).unwrap();
        self.put_manifest(repository, tag, &manifest);
        let config = serde_json::to_vec(&image.config).unwrap();
        for blob in image.layers.iter().chain([&config]) {
            self.put(
                &format!("/v2/{repository}/blobs/{}", Sha256::of(blob)),
                blob.clone(),
            );
        }
    }

    /// Puts a manifest or an index into the registry, by tag and by digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, manifest: &[u8]) -> Sha256 {
        let digest = Sha256::of(manifest);
        for reference in [tag.to_owned(), digest.to_string()] {
            let answer = Answer::With(
                "Docker-Content-Digest",
                digest.to_string(),
                manifest.to_vec(),
            );
            self.server.set(
                &format!("/v2/{repository}/manifests/{reference}"),
                vec![answer],
            );
        }
        digest
    }

    /// Where the publishers are found here.
    fn mirrors(&self) -> Vec<(String, String)> {
        let url = self.server.url();
        let hosts = ["dl.k8s.io", "download.docker.com", "github.com"];
        let registries = ["k8s.gcr.io", self.server.address()];
        hosts
            .map(|host| (host.to_owned(), format!("{url}/{host}")))
            .into_iter()
            .chain(registries.map(|registry| (registry.to_owned(), url.clone())))
            .collect()
    }

    /// The recipe that says what `arguments` say, but for the version and the output.
    pub fn recipe(&self) -> String {
        let mirror = |(host, url): &(String, String)| format!("  \"{host}\": {url}\n");
        let mirrors: Vec<String> = self.mirrors().iter().map(mirror).collect();
        let runtime = if self.containerd {
            format!(
                "runtime: containerd\ncontainerd-version: {CONTAINERD}\nrunc-version: {RUNC}\ncrictl-version: {CRICTL}\n"
            )
        } else {
            format!(
                "docker-version: 20.10.24\npins:\n  docker: {}\n",
                self.docker
            )
        };
        format!(
            "{runtime}cni-version: v1.7.1\nmirrors:\n{}",
            mirrors.concat()
        )
    }

    /// The arguments of `kpot build` that fetch everything from here.
    pub fn arguments(&self, name: &str) -> Vec<String> {
        self.arguments_for(self.version, name)
    }

    /// The same with another `--k8s`.
    pub fn arguments_for(&self, kubernetes: &str, name: &str) -> Vec<String> {
        let mut arguments: Vec<String> = ["build", "--k8s", kubernetes, "--output", name]
            .map(str::to_owned)
            .into();
        arguments.extend(["--cni-version", "v1.7.1"].map(str::to_owned));
        if self.containerd {
            arguments.extend(
                [
                    "--runtime",
                    "containerd",
                    "--containerd-version",
                    CONTAINERD,
                    "--runc-version",
                    RUNC,
                    "--crictl-version",
                    CRICTL,
                ]
                .map(str::to_owned),
            );
        } else {
            arguments.extend(["--docker-version", "20.10.24", "--pin"].map(str::to_owned));
            arguments.push(format!("docker={}", self.docker));
        }
        for (host, url) in self.mirrors() {
            arguments.extend(["--mirror".to_owned(), format!("{host}={url}")]);
        }
        arguments
    }
}

impl FakeImage {
    /// An image with a layer that all have in common and one of its own.
    pub fn new(name: &str) -> Self {
        let tars = [tar_of("base", 200_000), tar_of(name, 100_000)];
        let layers: Vec<Vec<u8>> = tars.iter().map(|tar| gzip(tar)).collect();
        let diff_ids: Vec<String> = tars.iter().map(|tar| Sha256::of(tar).to_string()).collect();
        let mut image = Self {
            manifest: Value::Null,
            config: json!({
                "architecture": "amd64", "os": "linux", "config": { "Cmd": [name] },
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            }),
            layers,
        };
        image.describe();
        image
    }

    /// Makes the manifest again after the config or the layers were changed.
    pub fn describe(&mut self) {
        let config = serde_json::to_vec(&self.config).unwrap();
        let descriptor = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "size": bytes.len(), "digest": Sha256::of(bytes) });
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| descriptor(GZIP_LAYER, layer))
            .collect();
        self.manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": layers,
        });
    }

    /// An index with this image for amd64, and `other` for arm64.
    fn index_with(&self, other: &Self) -> Value {
        let mut index = self.index(&json!({ "os": "linux", "architecture": "amd64" }));
        let bytes = serde_json::to_vec(&other.manifest).unwrap();
        let platform = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
        index["manifests"].as_array_mut().unwrap().push(json!({
            "mediaType": MANIFEST, "size": bytes.len(), "digest": Sha256::of(&bytes), "platform": platform,
        }));
        index
    }

    /// An index with this image's manifest for `platform`, and one for another machine.
    pub fn index(&self, platform: &Value) -> Value {
        let manifest = serde_json::to_vec(&self.manifest).unwrap();
        let entry = |bytes: &[u8], platform: &Value| json!({ "mediaType": MANIFEST, "size": bytes.len(), "digest": Sha256::of(bytes), "platform": platform });
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests": [entry(b"other", &json!({ "os": "linux", "architecture": "s390x" })), entry(&manifest, platform)],
        })
    }
}

/// Bytes that compress somewhat and depend on `name` alone.
pub fn content(name: &str, size: usize) -> Vec<u8> {
    let seed =
        u64::from(Sha256::of(name.as_bytes()).hex().as_bytes()[0]) * 7919 + name.len() as u64;
    (seed..)
        .flat_map(|n| (n * n).to_string().into_bytes())
        .take(size)
        .collect()
}

fn tar_of(name: &str, size: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    append(
        &mut builder,
        &format!("usr/bin/{name}"),
        &content(name, size),
    );
    builder.into_inner().unwrap()
}

pub fn archive(folder: &str, names: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in names {
        append(
            &mut builder,
            &format!("{folder}{name}"),
            &content(name, 50_000),
        );
    }
    gzip(&builder.into_inner().unwrap())
}

fn append(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    builder.append_data(&mut header, path, content).unwrap();
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
