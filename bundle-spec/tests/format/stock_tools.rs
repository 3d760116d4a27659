//! A pot is checked, unpacked and signed by tools that every server has. These tests fail where one of them is missing; nothing is skipped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use bundle_spec::signature::{sign, verify};
use bundle_spec::{Error, SigningKey, Trust};

use crate::pots::{KEY, check, entries, key, on_disk, small_pot, trust};

/// Runs a program in `folder` with `input` on its stdin.
fn run(folder: &Path, program: &str, arguments: &[&str], input: &[u8]) -> Output {
    // A file and not a pipe: the program may end without reading, and then nobody minds.
    let stdin = folder.join(".stdin");
    fs::write(&stdin, input).unwrap();
    Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::from(fs::File::open(stdin).unwrap()))
        .output()
        .unwrap_or_else(|cause| panic!("{program} is needed by this test: {cause}"))
}

/// Runs a program that must succeed and say nothing on stderr; returns what it said on stdout.
fn run_quietly(folder: &Path, program: &str, arguments: &[&str], input: &[u8]) -> String {
    let output = run(folder, program, arguments, input);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {complaints}"
    );
    assert_eq!(complaints, "", "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn write_key(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn tar_ssh_keygen_and_sha256sum_check_a_pot_with_nothing_of_ours() {
    let (folder, _) = on_disk(&small_pot());
    let folder = folder.path();
    run_quietly(folder, "tar", &["xf", "test.pot"], b"");
    let line = format!("kpot {}\n", key().public_openssh().unwrap());
    fs::write(folder.join("allowed_signers"), line).unwrap();
    let sums = fs::read(folder.join("SHA256SUMS")).unwrap();
    let arguments = [
        "-Y",
        "verify",
        "-n",
        "kpot",
        "-f",
        "allowed_signers",
        "-I",
        "kpot",
        "-s",
        "SHA256SUMS.sig",
    ];
    let said = run_quietly(folder, "ssh-keygen", &arguments, &sums);
    assert!(
        said.starts_with("Good \"kpot\" signature for kpot with ED25519 key SHA256:"),
        "{said}"
    );
    let said = run_quietly(folder, "sha256sum", &["--strict", "-c", "SHA256SUMS"], b"");
    assert_eq!(
        said.lines().count(),
        entries(&small_pot()).len() - 2,
        "all but the sums and the signature: {said}"
    );
    assert!(said.lines().all(|line| line.ends_with(": OK")), "{said}");
    // And what tar unpacked is the pot, the installer ready to run.
    check(folder).unwrap();
    let mode = fs::metadata(folder.join("kpot-install"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o700, 0o700);
    // The same tools notice a changed byte in each of the three layers.
    fs::write(folder.join("README.txt"), "changed").unwrap();
    let output = run(folder, "sha256sum", &["--strict", "-c", "SHA256SUMS"], b"");
    assert!(!output.status.success());
    let output = run(
        folder,
        "ssh-keygen",
        &arguments,
        &[&sums[..], b"\n"].concat(),
    );
    assert!(!output.status.success());
}

#[test]
fn gnu_tar_makes_the_same_bytes_out_of_an_unpacked_pot() {
    let pot = small_pot();
    let (folder, _) = on_disk(&pot);
    let folder = folder.path();
    run_quietly(folder, "tar", &["xpf", "test.pot"], b"");
    let names: Vec<String> = entries(&pot).into_iter().map(|entry| entry.name).collect();
    let mut arguments = vec![
        "cf",
        "again.pot",
        "--format=ustar",
        "--blocking-factor=1",
        "--numeric-owner",
        "--owner=0",
        "--group=0",
        "--mtime=@0",
    ];
    arguments.extend(names.iter().map(String::as_str));
    run_quietly(folder, "tar", &arguments, b"");
    assert!(fs::read(folder.join("again.pot")).unwrap() == pot);
}

#[test]
fn ssh_keygen_signs_what_we_verify_byte_for_byte_as_we_sign() {
    let folder = tempfile::tempdir().unwrap();
    write_key(folder.path(), "key", KEY);
    let theirs = run(
        folder.path(),
        "ssh-keygen",
        &["-Y", "sign", "-n", "kpot", "-f", "key"],
        b"text\n",
    );
    assert!(theirs.status.success());
    assert_eq!(
        String::from_utf8(theirs.stdout.clone()).unwrap(),
        sign(&key(), b"text\n").unwrap()
    );
    let signer = verify(b"text\n", &theirs.stdout, trust()).unwrap();
    assert_eq!(signer.fingerprint, key().fingerprint());
    assert!(matches!(
        verify(b"text", &theirs.stdout, trust()),
        Err(Error::Signature(_))
    ));
}

#[test]
fn signatures_of_other_namespaces_hashes_and_key_types_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_key(folder.path(), "key", KEY);
    for (name, kind) in [("rsa", "rsa"), ("ecdsa", "ecdsa")] {
        let arguments = ["-q", "-t", kind, "-N", "", "-f", name];
        run_quietly(folder.path(), "ssh-keygen", &arguments, b"");
    }
    for (namespace, name, hash, why) in [
        ("git", "key", "sha512", "the namespace \"git\""),
        ("kpot", "key", "sha256", "sha512"),
        ("kpot", "rsa", "sha512", "only ssh-ed25519"),
        ("kpot", "ecdsa", "sha512", ""),
    ] {
        let hash = format!("hashalg={hash}");
        let arguments = ["-Y", "sign", "-n", namespace, "-f", name, "-O", &hash];
        let signed = run(folder.path(), "ssh-keygen", &arguments, b"text\n");
        assert!(signed.status.success(), "{arguments:?}");
        let refused = verify(b"text\n", &signed.stdout, trust());
        assert!(
            matches!(&refused, Err(Error::Signature(reason)) if reason.contains(why)),
            "{arguments:?}: {refused:?}"
        );
    }
}

#[test]
fn the_version_and_the_reserved_field_of_a_signature_are_not_free() {
    let folder = tempfile::tempdir().unwrap();
    let armored = sign(&key(), b"text\n").unwrap();
    let lines: Vec<&str> = armored.lines().collect();
    let body = lines[1..lines.len() - 1].concat();
    let decoded = run(folder.path(), "base64", &["-d"], body.as_bytes());
    let bytes = decoded.stdout;
    // PROTOCOL.sshsig: "SSHSIG", the version in four bytes, then strings with their length in four: key, namespace, reserved, hash, signature.
    assert_eq!(bytes[..10], *b"SSHSIG\0\0\0\x01");
    let namespace = bytes.windows(8).position(|it| it == b"\0\0\0\x04kpot");
    let reserved = namespace.unwrap() + 8;
    let armor = |bytes: &[u8]| {
        let encoded = run(folder.path(), "base64", &["-w70"], bytes).stdout;
        let body = String::from_utf8(encoded).unwrap();
        format!("{}\n{body}{}\n", lines[0], lines[lines.len() - 1])
    };
    assert_eq!(armor(&bytes), armored);
    let mut filled = bytes.clone();
    filled.splice(reserved..reserved + 4, *b"\0\0\0\x01x");
    let mut older = bytes.clone();
    older[9] = 0;
    let mut newer = bytes.clone();
    newer[9] = 2;
    for (changed, why) in [
        (filled, "another version"),
        (older, "another version"),
        (newer, ""),
    ] {
        let refused = verify(b"text\n", armor(&changed).as_bytes(), trust());
        assert!(
            matches!(&refused, Err(Error::Signature(reason)) if reason.contains(why)),
            "{refused:?}"
        );
    }
}

#[test]
fn keys_go_both_ways_and_protected_or_other_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ours = SigningKey::generate().unwrap();
    write_key(folder.path(), "ours", &ours.to_openssh().unwrap());
    let public = run_quietly(folder.path(), "ssh-keygen", &["-y", "-f", "ours"], b"");
    assert_eq!(public.trim_end(), ours.public_openssh().unwrap());
    let listed = run_quietly(folder.path(), "ssh-keygen", &["-l", "-f", "ours"], b"");
    assert!(listed.contains(&ours.fingerprint()), "{listed}");

    for (name, kind, passphrase, why) in [
        ("plain", "ed25519", "", ""),
        ("protected", "ed25519", "a passphrase", "passphrase"),
        ("rsa", "rsa", "", "ssh-rsa"),
        ("ecdsa", "ecdsa", "", "kpot keygen"),
    ] {
        let arguments = ["-q", "-t", kind, "-N", passphrase, "-f", name];
        run_quietly(folder.path(), "ssh-keygen", &arguments, b"");
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        match SigningKey::from_openssh(&text) {
            Ok(key) => {
                assert_eq!(name, "plain");
                let public = fs::read_to_string(folder.path().join("plain.pub")).unwrap();
                assert_eq!(key.public_openssh().unwrap(), public.trim_end());
            }
            Err(error) => {
                assert_ne!(name, "plain", "{error}");
                assert!(
                    matches!(&error, Error::Key(text) if text.contains(why)),
                    "{error}"
                );
                assert!(!error.is_untrusted());
            }
        }
    }
}

#[test]
fn a_list_of_signers_means_what_it_means_to_ssh_keygen() {
    let folder = tempfile::tempdir().unwrap();
    let key_line = key().public_openssh().unwrap();
    let (kind_and_key, _comment) = key_line.split_at(key_line.find(" kpot test").unwrap());
    let other = SigningKey::generate().unwrap().public_openssh().unwrap();
    let signature = sign(&key(), b"text\n").unwrap();
    fs::write(folder.path().join("sig"), &signature).unwrap();
    let now = SystemTime::now();
    // Each with the verdict of both.
    for (list, trusted) in [
        (format!("kpot {key_line}"), true),
        (format!("kpot {kind_and_key}"), true),
        (format!("  \tkpot\t {kind_and_key}\n"), true),
        (format!("\"kpot\" {key_line}"), true),
        (format!("*@example.com,kpot {key_line}"), true),
        (
            format!("# a comment\n\nkpot {other}\nkpot {key_line}\n"),
            true,
        ),
        (format!("#kpot {key_line}"), false),
        (format!("kpot {other}"), false),
        (String::new(), false),
        (format!("kpot namespaces=\"kpot\" {key_line}"), true),
        (format!("kpot NameSpaces=\"git,kp*\" {key_line}"), true),
        (format!("kpot namespaces=\"?pot\" {key_line}"), true),
        (format!("kpot namespaces=\"git,file\" {key_line}"), false),
        (format!("kpot namespaces=\"*,!kpot\" {key_line}"), false),
        (format!("kpot namespaces=\"KPOT\" {key_line}"), false),
        (format!("kpot namespaces=\"\" {key_line}"), false),
        (format!("kpot valid-after=\"20200101Z\" {key_line}"), true),
        (format!("kpot valid-before=\"20200101Z\" {key_line}"), false),
        (format!("kpot valid-after=\"20990101Z\" {key_line}"), false),
        (
            format!(
                "kpot valid-after=\"202001011530Z\",valid-before=\"20991231235959Z\" {key_line}"
            ),
            true,
        ),
        (
            format!("kpot valid-after=\"20200101Z\",namespaces=\"git\" {key_line}"),
            false,
        ),
        (
            format!("kpot valid-before=\"20200101Z\" {key_line}\nkpot {key_line}"),
            true,
        ),
        (format!("kpot cert-authority {key_line}"), false),
        (
            format!("kpot namespaces=\"kpot\",namespaces=\"kpot\" {key_line}"),
            false,
        ),
        (
            format!("kpot valid-after=\"20200101Z\",valid-before=\"20190101Z\" {key_line}"),
            false,
        ),
        (format!("kpot valid-after=\"20201301Z\" {key_line}"), false),
        (format!("kpot unknown {key_line}"), false),
        (format!("kpot namespaces=kpot {key_line}"), false),
        (format!("kpot namespaces=\"kpot {key_line}"), false),
        (format!("\"kpot {key_line}"), false),
        (kind_and_key.to_owned(), false),
    ] {
        fs::write(folder.path().join("list"), &list).unwrap();
        let arguments = [
            "-Y", "verify", "-n", "kpot", "-f", "list", "-I", "kpot", "-s", "sig",
        ];
        let theirs = run(folder.path(), "ssh-keygen", &arguments, b"text\n");
        assert_eq!(
            theirs.status.success(),
            trusted,
            "ssh-keygen: {list}\n{theirs:?}"
        );
        let ours = Trust::from_allowed_signers(&list, now)
            .and_then(|trust| verify(b"text\n", signature.as_bytes(), &trust));
        assert_eq!(ours.is_ok(), trusted, "ours: {list}\n{ours:?}");
    }
}
