//! Upstream's servers, on this machine's loopback: Debian's nginx in the layout of dl.k8s.io, download.docker.com and
//! github.com's releases, and Debian's docker-registry.
//!
//! Both run on configurations and data of the lab's own, below its cache; Debian's services and sites are not touched.
//! Where a lab's servers run already, they are used and left running by whoever did not start them. They show what the
//! upstreams show, files that those do not publish included by their absence.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::json;

use crate::eras::Checksum;
use crate::sh::{self, Daemon, Sh};
use crate::upstream::image::sha256;
use crate::upstream::{RuntimeFiles, Upstream, archives};

/// nginx's address and port.
pub const WEB: &str = "127.0.0.1:18080";
/// docker-registry's address and port.
pub const REGISTRY: &str = "127.0.0.1:15000";

/// Hosts of downloads that nginx stands for, each below a folder of its name.
pub const WEB_HOSTS: [&str; 3] = ["dl.k8s.io", "download.docker.com", "github.com"];
/// Hosts of images that the registry stands for. It serves `registry.k8s.io` as well, which is the same to kpot.
pub const IMAGE_HOSTS: [&str; 3] = ["k8s.gcr.io", "ghcr.io", "kpot.lab"];

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const START_LIMIT: Duration = Duration::from_secs(15);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The running servers. They stop when this is dropped, if this lab started them.
#[derive(Debug)]
pub struct Mirror {
    web: Server,
    registry: Server,
}

impl Mirror {
    /// What to pass to `kpot build` so that it fetches everything here: `--mirror`, `HOST=URL`, and so on.
    pub fn kpot_arguments(&self) -> Vec<String> {
        let web = WEB_HOSTS.map(|host| format!("{host}=http://{}/{host}", self.web.address));
        let images = IMAGE_HOSTS.map(|host| format!("{host}=http://{}", self.registry.address));
        web.into_iter()
            .chain(images)
            .flat_map(|mirror| ["--mirror".to_owned(), mirror])
            .collect()
    }

    /// Leaves the servers running when this lab ends; [`stop_all`] stops them.
    pub fn leave_running(self) {
        [self.web, self.registry]
            .into_iter()
            .filter_map(|server| server.ours)
            .for_each(Daemon::detach);
    }
}

#[derive(Debug)]
struct Server {
    address: &'static str,
    /// `None` where it ran before.
    ours: Option<Daemon>,
}

/// Where the mirror has its files.
struct Place {
    root: PathBuf,
}

impl Place {
    fn of(cache: &Path) -> Self {
        Self {
            root: cache.join("mirror"),
        }
    }

    fn www(&self) -> PathBuf {
        self.root.join("www")
    }

    fn nginx_config(&self) -> PathBuf {
        self.root.join("nginx.conf")
    }

    fn registry_config(&self) -> PathBuf {
        self.root.join("registry.yml")
    }
}

/// Publishes what these eras have, starts the servers where they do not run, and pushes images that are not there yet.
pub fn serve(cache: &Path, upstreams: &[&Upstream]) -> Result<Mirror> {
    sh::apt_install(&["docker-registry", "nginx", "skopeo"])?;
    let place = Place::of(cache);
    for upstream in upstreams {
        publish(&place, upstream).with_context(|| format!("publishing {}", upstream.version))?;
    }
    publish_latest(&place)?;
    let mirror = Mirror {
        web: start_nginx(&place)?,
        registry: start_registry(&place)?,
    };
    for upstream in upstreams {
        push(&place, upstream)
            .with_context(|| format!("pushing the images of {}", upstream.version))?;
    }
    Ok(mirror)
}

/// Stops the servers of this cache, whoever started them.
pub fn stop_all(cache: &Path) -> Result<()> {
    let place = Place::of(cache);
    for config in [place.nginx_config(), place.registry_config()] {
        for pid in running_with(&config)? {
            // One that has ended meanwhile is what is wanted; the rest is waited for below.
            Sh::new("kill").arg(pid.to_string()).outcome()?;
        }
        let begun = Instant::now();
        while !running_with(&config)?.is_empty() {
            ensure!(
                begun.elapsed() < START_LIMIT,
                "the server with {} does not end",
                config.display()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Puts an era's files into the web server's folder, as names of the same bytes.
fn publish(place: &Place, upstream: &Upstream) -> Result<()> {
    let www = place.www();
    let version = upstream.version;
    for program in crate::upstream::kubernetes::NODE_PROGRAMS {
        let file = www.join(format!(
            "dl.k8s.io/release/{version}/bin/linux/amd64/{program}"
        ));
        if publish_file(&upstream.bin.join(program), &file)? {
            for kind in &upstream.checksums {
                let (program, suffix) = match kind {
                    Checksum::Sha1 => ("sha1sum", "sha1"),
                    Checksum::Sha256 => ("sha256sum", "sha256"),
                    Checksum::Sha512 => ("sha512sum", "sha512"),
                };
                publish_text(&file, suffix, &archives::sum(program, &file)?)?;
            }
        }
    }
    publish_runtime(&www, &upstream.runtime)?;

    let cni = format!("cni-plugins-linux-amd64-{}.tgz", upstream.cni_version);
    let file = www.join(format!(
        "github.com/containernetworking/plugins/releases/download/{}/{cni}",
        upstream.cni_version
    ));
    if publish_file(&upstream.cni_archive, &file)? {
        publish_text(
            &file,
            "sha256",
            &format!("{}  {cni}\n", archives::sum("sha256sum", &file)?),
        )?;
    }
    Ok(())
}

/// The files of a container runtime. Docker publishes no sums; containerd one beside its archive, runc one list of all.
fn publish_runtime(www: &Path, runtime: &RuntimeFiles) -> Result<()> {
    let github = www.join("github.com");
    match runtime {
        RuntimeFiles::Docker { archive, version } => {
            let docker =
                format!("download.docker.com/linux/static/stable/x86_64/docker-{version}.tgz");
            publish_file(archive, &www.join(docker)).map(drop)
        }
        RuntimeFiles::Containerd {
            archive,
            version,
            runc,
            runc_version,
            crictl,
            crictl_version,
        } => {
            let name = format!("containerd-{version}-linux-amd64.tar.gz");
            let releases = github.join("containerd/containerd/releases/download");
            let file = releases.join(format!("v{version}")).join(&name);
            if publish_file(archive, &file)? {
                let sum = archives::sum("sha256sum", &file)?;
                publish_text(&file, "sha256sum", &format!("{sum}  {name}\n"))?;
            }
            let releases = github.join("opencontainers/runc/releases/download");
            let file = releases.join(format!("v{runc_version}")).join("runc.amd64");
            if publish_file(runc, &file)? {
                let sum = archives::sum("sha256sum", &file)?;
                let list = file.with_file_name("runc");
                publish_text(&list, "sha256sum", &format!("{sum}  runc.amd64\n"))?;
            }
            let name = format!("crictl-{crictl_version}-linux-amd64.tar.gz");
            let releases = github.join("kubernetes-sigs/cri-tools/releases/download");
            let file = releases.join(crictl_version).join(name);
            if publish_file(crictl, &file)? {
                publish_text(&file, "sha256", &archives::sum("sha256sum", &file)?)?;
            }
            Ok(())
        }
    }
}

/// Gives a file its place there; `true` if it was not there before, so that its sums have to be made.
fn publish_file(source: &Path, file: &Path) -> Result<bool> {
    if sh::same_file(source, file) {
        return Ok(false);
    }
    sh::hard_link(source, file)?;
    Ok(true)
}

fn publish_text(file: &Path, suffix: &str, text: &str) -> Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    sh::write_atomic(
        &file.with_file_name(format!("{name}.{suffix}")),
        text.as_bytes(),
        0o644,
    )
}

/// Writes `stable-1.NN.txt` of every minor, and `stable.txt`; none where nothing was published yet.
fn publish_latest(place: &Place) -> Result<()> {
    let release = place.www().join("dl.k8s.io/release");
    sh::make_dirs(&release)?;
    let mut versions: Vec<crate::eras::Version> = sh::names_in(&release)?
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    versions.sort_unstable();
    for version in versions {
        // Sorted: the latest patch of a minor is written last, and the latest of all into stable.txt.
        let text = version.to_string();
        let minor = format!("stable-{}.{}.txt", version.major, version.minor);
        for name in [minor.as_str(), "stable.txt"] {
            sh::write_atomic(&release.join(name), text.as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

fn start_nginx(place: &Place) -> Result<Server> {
    let root = place.root.display();
    // Workers as root: the cache lies in a home that others cannot enter. nginx would not make the folders for uploads
    // and proxies in a place of its own, which it wants although nobody uses them here.
    let config = format!(
        "user root;\nworker_processes 2;\ndaemon off;\npid {root}/nginx.pid;\nerror_log {root}/nginx-error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n  access_log {root}/nginx-access.log;\n  default_type application/octet-stream;\n\
         \x20 types {{ text/plain txt sha1 sha256 sha256sum sha512; }}\n  sendfile on;\n\
         \x20 client_body_temp_path {root}/tmp/body;\n  proxy_temp_path {root}/tmp/proxy;\n\
         \x20 fastcgi_temp_path {root}/tmp/fastcgi;\n  uwsgi_temp_path {root}/tmp/uwsgi;\n\
         \x20 scgi_temp_path {root}/tmp/scgi;\n  server {{ listen {WEB}; root {root}/www; }}\n}}\n"
    );
    sh::make_dirs(&place.root.join("tmp"))?;
    let path = place.nginx_config();
    let server = Sh::new("nginx")
        .arg("-c")
        .arg(&path)
        .args(["-e", &format!("{root}/nginx-error.log")]);
    start(&path, &config, &server.log("nginx.log"), WEB)
}

fn start_registry(place: &Place) -> Result<Server> {
    let config = json!({
        "version": 0.1,
        "log": { "level": "warn", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": place.root.join("registry") },
            "cache": { "blobdescriptor": "inmemory" },
        },
        "http": { "addr": REGISTRY, "headers": { "X-Content-Type-Options": ["nosniff"] } },
    });
    // JSON is YAML, but for a version that must look like a number.
    let path = place.registry_config();
    let server = Sh::new("docker-registry")
        .arg("serve")
        .arg(&path)
        .log("registry.log");
    start(&path, &format!("{config:#}\n"), &server, REGISTRY)
}

/// Starts a server on this configuration, unless one runs on it already.
fn start(path: &Path, config: &str, server: &Sh, address: &'static str) -> Result<Server> {
    if !running_with(path)?.is_empty() {
        wait_for(address, None)?;
        return Ok(Server {
            address,
            ours: None,
        });
    }
    if connect(address).is_ok() {
        bail!(
            "{address}, where the lab serves upstream's files, is taken by another program: find it by `ss -ltnp`"
        );
    }
    sh::write_atomic(path, config.as_bytes(), 0o644)?;
    let mut daemon = server.spawn()?;
    wait_for(address, Some(&mut daemon))?;
    Ok(Server {
        address,
        ours: Some(daemon),
    })
}

fn wait_for(address: &str, mut daemon: Option<&mut Daemon>) -> Result<()> {
    let begun = Instant::now();
    while let Err(err) = connect(address) {
        if let Some(daemon) = daemon.as_deref_mut() {
            daemon.still_runs()?;
        }
        if begun.elapsed() > START_LIMIT {
            return Err(err).with_context(|| format!("nothing answers on {address}"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Processes that were started with this configuration file among their arguments.
fn running_with(config: &Path) -> Result<Vec<u32>> {
    let marker = config.to_string_lossy();
    let mut found = Vec::new();
    for name in sh::names_in(Path::new("/proc"))? {
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        // Processes end while we look; a kernel thread's line is empty.
        let Ok(line) = sh::read_text(&Path::new("/proc").join(&name).join("cmdline")) else {
            continue;
        };
        let program = line.split('\0').next().unwrap_or_default();
        let server = program.contains("nginx") || program.contains("docker-registry");
        if server && line.split(['\0', ' ']).any(|word| word == marker) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Pushes an era's images, each as a manifest list, as Kubernetes' own registry has them. Once done, a note beside the
/// registry's data says which.
fn push(place: &Place, upstream: &Upstream) -> Result<()> {
    let note = place.root.join("pushed").join(upstream.version.to_string());
    if sh::exists(&note) && sh::read_text(&note)? == upstream.images_key {
        return Ok(());
    }
    sh::step(
        &format!(
            "pushing the {} images of {}",
            upstream.images.len(),
            upstream.version
        ),
        || {
            let mut pushes = upstream
                .images
                .iter()
                .map(|name| push_image(upstream, name));
            pushes.try_for_each(|pushed| pushed)
        },
    )?;
    sh::write_atomic(&note, upstream.images_key.as_bytes(), 0o644)
}

fn push_image(upstream: &Upstream, name: &str) -> Result<()> {
    let (repository, tag) = split_name(name)?;
    let one = format!("{tag}-amd64");
    Sh::new("skopeo")
        .args([
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            "--format",
            "v2s2",
        ])
        .arg(format!(
            "docker-archive:{}:{name}",
            upstream.images_archive.display()
        ))
        .arg(format!("docker://{REGISTRY}/{repository}:{one}"))
        .log("skopeo.log")
        .run()?;
    let manifest = registry(
        "GET",
        &format!("/v2/{repository}/manifests/{one}"),
        DOCKER_MANIFEST,
        &[],
    )?;
    let list = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_LIST,
        "manifests": [{
            "mediaType": DOCKER_MANIFEST,
            "size": manifest.len(),
            "digest": format!("sha256:{}", sha256(&manifest)),
            "platform": { "architecture": "amd64", "os": "linux" },
        }],
    });
    let list = serde_json::to_vec_pretty(&list).context("writing a manifest list")?;
    registry(
        "PUT",
        &format!("/v2/{repository}/manifests/{tag}"),
        DOCKER_LIST,
        &list,
    )?;
    Ok(())
}

/// An image's repository without its host, and its tag.
fn split_name(name: &str) -> Result<(&str, &str)> {
    name.split_once('/')
        .and_then(|(_host, rest)| rest.rsplit_once(':'))
        .ok_or_else(|| anyhow!("{name} is no image name with host and tag"))
}

/// Asks the registry; `kind` is the media type that is wanted or sent. Anything but success is an error.
fn registry(method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>> {
    let exchange = || -> Result<Vec<u8>> {
        let mut stream = connect(REGISTRY)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        // 1.0: the answer ends where the connection does, and comes in one piece.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {REGISTRY}\r\nAccept: {kind}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(|| format!("{method} http://{REGISTRY}{path}"))?;
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map_or(answer.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(
        status.starts_with('2'),
        "{method} http://{REGISTRY}{path}: {}\n{}",
        head.lines().next().unwrap_or_default(),
        String::from_utf8_lossy(&answer[end..])
    );
    Ok(answer[end..].to_vec())
}

fn connect(address: &str) -> Result<TcpStream> {
    let parsed: SocketAddr = address
        .parse()
        .with_context(|| format!("{address} is no address"))?;
    TcpStream::connect_timeout(&parsed, Duration::from_secs(2))
        .with_context(|| format!("connecting to {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_repository_and_tag() {
        assert_eq!(
            split_name("k8s.gcr.io/coredns/coredns:v1.8.0").expect("a name"),
            ("coredns/coredns", "v1.8.0")
        );
        assert!(split_name("busybox:1").is_err());
        assert!(split_name("k8s.gcr.io/pause").is_err());
    }

    #[test]
    fn the_latest_versions_are_told_from_an_empty_mirror_on() {
        let cache = tempfile::tempdir().expect("a folder");
        let place = Place::of(cache.path());
        publish_latest(&place).expect("nothing is published yet");
        let release = place.www().join("dl.k8s.io/release");
        assert!(sh::names_in(&release).expect("a folder").is_empty());
        for version in ["v1.20.2", "v1.9.9", "v1.20.10"] {
            sh::make_dirs(&release.join(version)).expect("a version's folder");
        }
        publish_latest(&place).expect("three versions are published");
        let told = |name: &str| sh::read_text(&release.join(name)).expect("it is told");
        assert_eq!(told("stable-1.20.txt"), "v1.20.10");
        assert_eq!(told("stable.txt"), "v1.20.10");
        assert_eq!(told("stable-1.9.txt"), "v1.9.9");
    }

    #[test]
    fn kpot_gets_a_mirror_for_every_host() {
        let server = |address| Server {
            address,
            ours: None,
        };
        let mirror = Mirror {
            web: server(WEB),
            registry: server(REGISTRY),
        };
        let arguments = mirror.kpot_arguments();
        assert!(arguments.contains(&"dl.k8s.io=http://127.0.0.1:18080/dl.k8s.io".to_owned()));
        assert!(arguments.contains(&"k8s.gcr.io=http://127.0.0.1:15000".to_owned()));
        assert_eq!(arguments.len(), 2 * (WEB_HOSTS.len() + IMAGE_HOSTS.len()));
    }
}
