//! The servers that people have: Debian's nginx and docker-registry, over lines that break.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bundle_spec::{Arch, Sha256};
use kpot::fetch::http::Size;
use kpot::fetch::registry::Registries;
use kpot::fetch::{Logins, Network};
use kpot::image_name::ImageName;
use reqwest::blocking::Client as Http;
use serde_json::json;

use super::support::certificates::Authority;
use super::support::real::{self, Pusher};
use super::support::upstream::{FakeImage, content};
use super::tls::trusting;
use super::{client, is, network, refused, save, task};

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
    std::fs::create_dir(path.join("www")).unwrap();
    std::fs::write(path.join("www/file"), &body).unwrap();
    let nginx = real::nginx(path, None);
    let line = breaking(nginx.port, &[500_000, 900_000]);
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

#[test]
fn a_real_registry_gives_its_images_to_whoever_logged_in() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let file = folder.path().join("htpasswd");
    std::fs::write(&file, HTPASSWD).unwrap();
    let auth = json!({ "htpasswd": { "realm": "kpot", "path": file } });
    let running = real::registry(folder.path(), &authority, Some(auth));
    let mut image = FakeImage::new("etcd");
    image.layers[0] = content("layer", 2_000_000);
    image.describe();
    let authorities = trusting(&authority).authorities;
    let http = Http::builder().tls_certs_only(authorities).build().unwrap();
    let pusher = Pusher {
        http: &http,
        root: format!("https://127.0.0.1:{}/v2/lab/x", running.port),
        login: |request| request.basic_auth("me", Some("password")),
    };
    pusher.image(Some("1"), &image);

    let line = breaking(running.port, &[700_000, 700_000]);
    let registry = format!("127.0.0.1:{line}");
    let name: ImageName = format!("{registry}/lab/x:1").parse().unwrap();
    let stranger = client(trusting(&authority));
    let turned_away = Registries::new(&stranger).resolve(&name, Arch::Amd64, &|_| Ok(()), &task());
    refused(turned_away, &registry, &["401", "docker login"]);

    let config = json!({ "auths": { &registry: { "auth": "bWU6cGFzc3dvcmQ=" } } });
    let file = folder.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let client = client(Network {
        logins: Logins::in_file(&file),
        ..trusting(&authority)
    });
    let registries = Registries::new(&client);
    let found = registries
        .resolve(&name, Arch::Amd64, &|_| Ok(()), &task())
        .unwrap();
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
