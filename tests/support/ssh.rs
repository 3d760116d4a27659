//! Real OpenSSH: keys, an agent, and `ssh-keygen -Y verify`. And a FIDO token in software, which signs as OpenSSH's PROTOCOL.u2f says, by openssl and with nothing of the
//! code under test.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use sha2::{Digest as _, Sha256, Sha512};

/// The passphrase of the keys that have one.
const PASSPHRASE: &str = "not a secret";

/// Runs a program in `folder`; it must succeed.
pub fn run(folder: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = start(folder, program, arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn start(folder: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .env_remove("SSH_AUTH_SOCK");
    command
}

/// Makes a pair of keys in `folder`; the private one is behind [`PASSPHRASE`] where `protected`.
pub fn pair(folder: &Path, kind: &str, name: &str, protected: bool) -> PathBuf {
    let passphrase = if protected { PASSPHRASE } else { "" };
    let arguments = ["-q", "-t", kind, "-N", passphrase, "-C", name, "-f", name];
    run(folder, "ssh-keygen", &arguments);
    folder.join(name)
}

/// `ssh-keygen -Y verify` of a pot's signature by whoever the list `signers` names kpot.
pub fn verify(folder: &Path, signers: &Path, signature: &[u8], message: &[u8]) -> Output {
    let (signed, text) = (folder.join("checked.sig"), folder.join("checked"));
    std::fs::write(&signed, signature).unwrap();
    std::fs::write(&text, message).unwrap();
    start(
        folder,
        "ssh-keygen",
        &["-Y", "verify", "-n", "kpot", "-I", "kpot"],
    )
    .arg("-f")
    .arg(signers)
    .arg("-s")
    .arg(signed)
    .stdin(std::fs::File::open(text).unwrap())
    .output()
    .unwrap()
}

/// A real ssh-agent, which ends with this value.
pub struct Agent {
    process: Child,
    folder: tempfile::TempDir,
}

impl Agent {
    pub fn start() -> Self {
        // Short: a socket's path has at most 107 bytes.
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let socket = folder.path().join("agent");
        let process = start(folder.path(), "ssh-agent", &["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "ssh-agent made no socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, folder }
    }

    /// What `SSH_AUTH_SOCK` is to be.
    pub fn socket(&self) -> String {
        self.folder.path().join("agent").display().to_string()
    }

    /// Puts a private key behind [`PASSPHRASE`] into the agent.
    pub fn add(&self, key: &Path) {
        let asked = self.folder.path().join("askpass");
        std::fs::write(&asked, format!("#!/bin/sh\necho '{PASSPHRASE}'\n")).unwrap();
        std::fs::set_permissions(&asked, std::fs::Permissions::from_mode(0o700)).unwrap();
        let added = start(self.folder.path(), "ssh-add", &["-q"])
            .arg(key)
            .env("SSH_AUTH_SOCK", self.socket())
            .env("SSH_ASKPASS", asked)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .output()
            .unwrap();
        assert!(added.status.success(), "{added:?}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A FIDO token with one key.
pub struct Token {
    folder: tempfile::TempDir,
    public: Vec<u8>,
}

/// What a token says of itself in a signature.
#[derive(Clone, Copy)]
pub struct Touch {
    pub flags: u8,
    pub counter: u32,
    pub application: &'static str,
}

/// What a token says that somebody touched.
pub const TOUCHED: Touch = Touch {
    flags: 1,
    counter: 7,
    application: APPLICATION,
};

/// The application that ssh-keygen gives to keys by default.
pub const APPLICATION: &str = "ssh:";

const KIND: &str = "sk-ssh-ed25519@openssh.com";

impl Token {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let make = ["genpkey", "-algorithm", "ed25519", "-out", "key.pem"];
        run(folder.path(), "openssl", &make);
        let show = ["pkey", "-in", "key.pem", "-pubout", "-outform", "DER"];
        let der = run(folder.path(), "openssl", &show);
        // RFC 8410: the key is the last thing in it.
        let public = der[der.len() - 32..].to_vec();
        Self { folder, public }
    }

    /// The public key, of an application, in a line.
    pub fn line(&self, application: &str) -> String {
        format!(
            "{KIND} {} a token",
            Base64::encode_string(&self.key(application))
        )
    }

    /// An armored signature over `message`: the token signs what it says in `signed`, and says what is in `told`.
    pub fn sign(&self, message: &[u8], signed: Touch, told: Touch) -> String {
        // PROTOCOL.sshsig: what is signed.
        let mut blob = b"SSHSIG".to_vec();
        for part in [&b"kpot"[..], b"", b"sha512", &Sha512::digest(message)] {
            blob.extend(string(part));
        }
        // PROTOCOL.u2f: what a token makes of it.
        let mut asked = Sha256::digest(signed.application).to_vec();
        asked.push(signed.flags);
        asked.extend(signed.counter.to_be_bytes());
        asked.extend(Sha256::digest(&blob));
        std::fs::write(self.folder.path().join("asked"), asked).unwrap();
        let sign = [
            "pkeyutl", "-sign", "-rawin", "-inkey", "key.pem", "-in", "asked",
        ];
        let raw = run(self.folder.path(), "openssl", &sign);

        let mut signature = string(KIND.as_bytes());
        signature.extend(string(&raw));
        signature.push(told.flags);
        signature.extend(told.counter.to_be_bytes());
        let mut whole = b"SSHSIG\0\0\0\x01".to_vec();
        let key = self.key(told.application);
        for part in [&key[..], b"kpot", b"", b"sha512", &signature] {
            whole.extend(string(part));
        }
        armored(&whole)
    }

    fn key(&self, application: &str) -> Vec<u8> {
        [KIND.as_bytes(), &self.public, application.as_bytes()]
            .map(string)
            .concat()
    }
}

/// A string of SSH's protocols: its length, then its bytes.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes()[..], bytes].concat()
}

fn armored(bytes: &[u8]) -> String {
    let encoded = Base64::encode_string(bytes);
    let mut text = "-----BEGIN SSH SIGNATURE-----\n".to_owned();
    for line in encoded.as_bytes().chunks(70) {
        text += std::str::from_utf8(line).unwrap();
        text.push('\n');
    }
    text + "-----END SSH SIGNATURE-----\n"
}
