//! The servers that people have: Debian's nginx and docker-registry, over lines that break. Where they are not installed these tests say so and prove nothing.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bundle_spec::{Arch, Sha256};
use kpot::fetch::http::Size;
use kpot::fetch::registry::Registries;
use kpot::fetch::{Logins, Network};
use kpot::image_name::ImageName;
use reqwest::blocking::Client as Http;
use serde_json::json;

use super::support::certificates::Authority;
use super::support::upstream::{FakeImage, content};
use super::tls::trusting;
use super::{client, is, network, refused, save, task};

/// A server that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server, and waits until it listens at `port`. `None` where it is not installed.
fn start(name: &str, arguments: &[&str], port: u16) -> Option<Running> {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let program = places
        .iter()
        .map(|folder| folder.join(name))
        .find(|it| it.exists());
    let Some(program) = program else {
        eprintln!("{name} is not installed: nothing is proven here");
        return None;
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let running = Running(command.spawn().unwrap());
    for _ in 0..200 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(running);
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{name} does not listen at {port}");
}

/// A port that was free a moment ago.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A line to `port` that breaks after so many bytes, as often as there are numbers; then it holds. Its own port.
fn breaking(port: u16, breaks: &'static [usize]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let next = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let next = Arc::clone(&next);
            thread::spawn(move || drop(forward(client, port, breaks, &next)));
        }
    });
    own
}

fn forward(
    mut client: TcpStream,
    port: u16,
    breaks: &[usize],
    next: &AtomicUsize,
) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut from, &mut to));
    let (mut sent, mut buffer) = (0, vec![0; 16 << 10]);
    loop {
        let count = server.read(&mut buffer)?;
        // Only what is large breaks: a handshake or a manifest passes.
        let limit = breaks.get(next.load(Ordering::SeqCst)).copied();
        if count == 0 || limit.is_some_and(|limit| sent + count > limit) {
            if count > 0 {
                next.fetch_add(1, Ordering::SeqCst);
            }
            client.shutdown(std::net::Shutdown::Both)?;
            return server.shutdown(std::net::Shutdown::Both);
        }
        client.write_all(&buffer[..count])?;
        sent += count;
    }
}

#[test]
fn nginx_goes_on_where_the_line_broke() {
    let folder = tempfile::tempdir().unwrap();
    let (path, body) = (folder.path(), content("nginx", 3_000_000));
    std::fs::write(path.join("file"), &body).unwrap();
    let at = port();
    let config = format!(
        "daemon off; user root; worker_processes 1; pid {0}/pid; error_log {0}/error.log;\n\
         events {{}}\n\
         http {{ access_log {0}/access.log; client_body_temp_path {0}/t1; proxy_temp_path {0}/t2;\n\
         fastcgi_temp_path {0}/t3; uwsgi_temp_path {0}/t4; scgi_temp_path {0}/t5;\n\
         server {{ listen 127.0.0.1:{at}; root {0}; }} }}\n",
        path.display()
    );
    let file = path.join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let Some(_nginx) = start("nginx", &["-c", file.to_str().unwrap()], at) else {
        return;
    };
    let line = breaking(at, &[500_000, 900_000]);
    let url = format!("http://127.0.0.1:{line}/file");
    is(
        save(&client(network()), &url, Size::AtMost(4_000_000)),
        &body,
    );
    let asked = std::fs::read_to_string(path.join("access.log")).unwrap();
    let statuses: Vec<bool> = asked.lines().map(|line| line.contains("\" 206 ")).collect();
    assert_eq!(statuses, [false, true, true], "{asked}");
}

/// `me:password`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu\n";

/// docker-registry over TLS, for whoever knows the password.
fn registry(folder: &Path, authority: &Authority, at: u16) -> Option<Running> {
    let (certificate, key) = authority.pems("127.0.0.1");
    for (name, text) in [
        ("certificate", certificate.as_str()),
        ("key", &key),
        ("htpasswd", HTPASSWD),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    // YAML reads JSON.
    let config = json!({
        "version": 0.1,
        "log": { "level": "error" },
        "storage": { "filesystem": { "rootdirectory": folder.join("storage") } },
        "http": {
            "addr": format!("127.0.0.1:{at}"),
            "tls": { "certificate": folder.join("certificate"), "key": folder.join("key") },
        },
        "auth": { "htpasswd": { "realm": "kpot", "path": folder.join("htpasswd") } },
    });
    let file = folder.join("config.yml");
    std::fs::write(&file, config.to_string()).unwrap();
    start("docker-registry", &["serve", file.to_str().unwrap()], at)
}

/// Pushes as `docker push` does.
fn push(http: &Http, root: &str, image: &FakeImage) {
    let config = serde_json::to_vec(&image.config).unwrap();
    for blob in image.layers.iter().chain([&config]) {
        let begun = http
            .post(format!("{root}/blobs/uploads/"))
            .basic_auth("me", Some("password"));
        let begun = begun.send().unwrap().error_for_status().unwrap();
        let mut place = reqwest::Url::parse(begun.headers()["location"].to_str().unwrap()).unwrap();
        place
            .query_pairs_mut()
            .append_pair("digest", &Sha256::of(blob).to_string());
        let put = http
            .put(place)
            .basic_auth("me", Some("password"))
            .body(blob.clone());
        put.send().unwrap().error_for_status().unwrap();
    }
    let put = http
        .put(format!("{root}/manifests/1"))
        .basic_auth("me", Some("password"))
        .header(
            "Content-Type",
            image.manifest["mediaType"].as_str().unwrap(),
        )
        .body(serde_json::to_vec(&image.manifest).unwrap());
    put.send().unwrap().error_for_status().unwrap();
}

#[test]
fn a_real_registry_gives_its_images_to_whoever_logged_in() {
    let (folder, authority, at) = (tempfile::tempdir().unwrap(), Authority::new(), port());
    let Some(_registry) = registry(folder.path(), &authority, at) else {
        return;
    };
    let mut image = FakeImage::new("etcd");
    image.layers[0] = content("layer", 2_000_000);
    image.describe();
    let authorities = trusting(&authority).authorities;
    let http = Http::builder().tls_certs_only(authorities).build().unwrap();
    push(&http, &format!("https://127.0.0.1:{at}/v2/lab/x"), &image);

    let line = breaking(at, &[700_000, 700_000]);
    let registry = format!("127.0.0.1:{line}");
    let name: ImageName = format!("{registry}/lab/x:1").parse().unwrap();
    let stranger = client(trusting(&authority));
    let turned_away = Registries::new(&stranger).resolve(&name, Arch::Amd64, &task());
    refused(turned_away, &registry, &["401", "docker login"]);

    let config = json!({ "auths": { &registry: { "auth": "bWU6cGFzc3dvcmQ=" } } });
    let file = folder.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let client = client(Network {
        logins: Logins::in_file(&file),
        ..trusting(&authority)
    });
    let registries = Registries::new(&client);
    let found = registries.resolve(&name, Arch::Amd64, &task()).unwrap();
    assert_eq!(
        found.id,
        Sha256::of(&serde_json::to_vec(&image.config).unwrap())
    );
    let layer = &found.layers[0];
    let saved = registries
        .save_layer(&name, layer, &tempfile::tempfile, &task())
        .unwrap();
    assert_eq!(
        (saved.size, saved.sha256),
        (2_000_000, Sha256::of(&image.layers[0]))
    );
}
