//! The servers that people have: Debian's nginx and docker-registry, over TLS or without, on ports of loopback and on data of the test's own. Debian's services are not
//! touched. A test that needs one of them fails where it is not installed, and says what to type.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use bundle_spec::Sha256;
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};

use super::certificates::Authority;
use super::upstream::FakeImage;

/// A server that ends with its test.
pub struct Running {
    process: Child,
    pub port: u16,
    /// What it says on stdout: the registry's access log among it.
    pub said: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a server, and waits until it listens at `port`.
fn start(name: &str, arguments: &[&str], folder: &Path, port: u16) -> Running {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let program = places
        .iter()
        .map(|folder| folder.join(name))
        .find(|it| it.exists())
        .unwrap_or_else(|| {
            panic!(
                "{name} is not installed, and this test needs it: on Debian, apt-get install {name}"
            )
        });
    let said = folder.join(format!("{name}.out"));
    let mut running = Running {
        process: Command::new(program)
            .args(arguments)
            .stdout(File::create(&said).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
        port,
        said,
    };
    for _ in 0..200 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return running;
        }
        let ended = running.process.try_wait().unwrap();
        assert!(ended.is_none(), "{name} ended: {ended:?}");
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{name} does not listen at {port}");
}

/// A port that was free a moment ago.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The certificate and the key of a server at 127.0.0.1, in files of `folder`.
fn certificate(folder: &Path, authority: &Authority) -> (PathBuf, PathBuf) {
    let (certificate, key) = authority.pems("127.0.0.1");
    let files = (folder.join("certificate"), folder.join("key"));
    std::fs::write(&files.0, certificate).unwrap();
    std::fs::write(&files.1, key).unwrap();
    files
}

/// nginx, which serves `folder/www` and writes `folder/access.log`; over TLS where there is an authority.
pub fn nginx(folder: &Path, authority: Option<&Authority>) -> Running {
    let at = port();
    let tls = authority.map_or_else(String::new, |authority| {
        let (certificate, key) = certificate(folder, authority);
        format!(
            "ssl_certificate {}; ssl_certificate_key {};",
            certificate.display(),
            key.display()
        )
    });
    let listen = if authority.is_some() { " ssl" } else { "" };
    let config = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/error.log;\n\
         events {{}}\n\
         http {{ access_log {0}/access.log; client_body_temp_path {0}/t1; proxy_temp_path {0}/t2;\n\
         fastcgi_temp_path {0}/t3; uwsgi_temp_path {0}/t4; scgi_temp_path {0}/t5;\n\
         server {{ listen 127.0.0.1:{at}{listen}; {tls} root {0}/www; }} }}\n",
        folder.display()
    );
    // Only root may say who serves; anybody else serves by himself.
    let user = if nix::unistd::geteuid().is_root() {
        "user root; "
    } else {
        ""
    };
    let file = folder.join("nginx.conf");
    std::fs::write(&file, format!("{user}{config}")).unwrap();
    start("nginx", &["-c", file.to_str().unwrap()], folder, at)
}

/// docker-registry over TLS, with its access log on stdout; `auth` is that part of its configuration.
pub fn registry(folder: &Path, authority: &Authority, auth: Option<Value>) -> Running {
    let at = port();
    let (certificate, key) = certificate(folder, authority);
    let mut config = json!({
        "version": 0.1,
        "log": { "level": "error" },
        "storage": { "filesystem": { "rootdirectory": folder.join("storage") } },
        "http": {
            "addr": format!("127.0.0.1:{at}"),
            "tls": { "certificate": certificate, "key": key },
        },
    });
    if let Some(auth) = auth {
        config["auth"] = auth;
    }
    // YAML reads JSON.
    let file = folder.join("config.yml");
    std::fs::write(&file, config.to_string()).unwrap();
    let arguments = ["serve", file.to_str().unwrap()];
    start("docker-registry", &arguments, folder, at)
}

/// Pushes as `docker push` does, to a repository `https://HOST/v2/NAME`; each request becomes what `login` makes of it.
pub struct Pusher<'a> {
    pub http: &'a Client,
    pub root: String,
    pub login: fn(RequestBuilder) -> RequestBuilder,
}

impl Pusher<'_> {
    /// The blobs of an image, and its manifest, as `reference`: a tag, or its digest where none is given.
    pub fn image(&self, reference: Option<&str>, image: &FakeImage) {
        let config = serde_json::to_vec(&image.config).unwrap();
        for blob in image.layers.iter().chain([&config]) {
            self.blob(blob);
        }
        let digest = Sha256::of(&serde_json::to_vec(&image.manifest).unwrap()).to_string();
        self.manifest(reference.unwrap_or(&digest), &image.manifest);
    }

    /// A manifest or an index.
    pub fn manifest(&self, reference: &str, manifest: &Value) {
        let put = self
            .http
            .put(format!("{}/manifests/{reference}", self.root))
            .header("Content-Type", manifest["mediaType"].as_str().unwrap())
            .body(serde_json::to_vec(manifest).unwrap());
        self.send(put);
    }

    fn blob(&self, blob: &[u8]) {
        let begun = self.send(self.http.post(format!("{}/blobs/uploads/", self.root)));
        let mut place = reqwest::Url::parse(begun.headers()["location"].to_str().unwrap()).unwrap();
        place
            .query_pairs_mut()
            .append_pair("digest", &Sha256::of(blob).to_string());
        self.send(self.http.put(place).body(blob.to_vec()));
    }

    fn send(&self, request: RequestBuilder) -> reqwest::blocking::Response {
        let answer = (self.login)(request).send().unwrap();
        answer.error_for_status().unwrap()
    }
}

/// How often each address was asked for with `GET`, by an access log in the form that both servers write.
pub fn fetched(log: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        if let Some((_, rest)) = line.split_once("\"GET ") {
            let path = rest.split(' ').next().unwrap_or_default();
            *counts.entry(path.to_owned()).or_default() += 1;
        }
    }
    counts
}
