//! Pots signed by keys that kpot does not hold: in a real ssh-agent, and on a FIDO token.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the files that kpot made, and make keys"
)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::SystemTime;

use bundle_spec::{Member, Trust, header, signature};
use support::pots::{desk_with_pot, members};
use support::ssh::{APPLICATION, Agent, TOUCHED, Token, Touch, pair, verify};
use support::upstream::Upstream;
use support::{Desk, code, stderr, stdout};

/// Names and values.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// A file of signers that trusts one public key.
fn trusting(desk: &Desk, name: &str, line: &str) -> String {
    let path = desk.path(name);
    std::fs::write(&path, format!("kpot namespaces=\"kpot\" {line}\n")).unwrap();
    path.display().to_string()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `kpot build … -o NAME --sign-key KEY`, with these variables.
fn build(
    desk: &Desk,
    upstream: &Upstream,
    name: &str,
    key: &Path,
    variables: Variables<'_>,
) -> Output {
    let arguments = upstream.arguments(name);
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--sign-key", text(key)]);
    desk.kpot_with(&arguments, variables)
}

/// The signature of a pot, and what it signs.
fn signed(pot: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let members = members(pot);
    let of = |wanted| members.iter().find(|it| it.0 == wanted).unwrap().1.clone();
    (of(Member::Signature), of(Member::Sums))
}

#[test]
fn a_key_in_an_agent_signs_pots() {
    let (desk, upstream) = (Desk::without_key(), Upstream::new("v1.20.2"));
    let key = pair(&desk.path(""), "ed25519", "ops", true);
    let public = desk.path("ops.pub");
    let agent = Agent::start();
    agent.add(&key);
    let socket = agent.socket();
    let variables = [("SSH_AUTH_SOCK", socket.as_str())];
    let signers = trusting(&desk, "signers", &read(&public));

    let built = build(&desk, &upstream, "x.pot", &public, &variables);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let checked = desk.kpot(&["verify", "x.pot", "--signers", &signers]);
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
    let pot = std::fs::read(desk.out().join("x.pot")).unwrap();
    let (signature, sums) = signed(&pot);
    let theirs = verify(&desk.path(""), Path::new(&signers), &signature, &sums);
    assert!(theirs.status.success(), "{theirs:?}");

    // The private key behind a passphrase stands for the one in the agent, and an agent's signature is the same each time.
    let built = build(&desk, &upstream, "y.pot", &key, &variables);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    assert!(std::fs::read(desk.out().join("y.pot")).unwrap() == pot);

    // A pot goes over to another key in the agent.
    let next = pair(&desk.path(""), "ed25519", "next", true);
    agent.add(&next);
    let next_signers = trusting(&desk, "next_signers", &read(&desk.path("next.pub")));
    let next = desk.path("next.pub");
    let rotated = desk.kpot_with(
        &[
            "sign",
            "x.pot",
            "--signers",
            &signers,
            "--sign-key",
            text(&next),
        ],
        &variables,
    );
    assert_eq!(code(&rotated), 0, "{}", stderr(&rotated));
    assert!(
        stdout(&rotated).contains("no longer by"),
        "{}",
        stdout(&rotated)
    );
    let checked = desk.kpot(&["verify", "x.pot", "--signers", &next_signers]);
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
    let old = desk.kpot(&["verify", "x.pot", "--signers", &signers]);
    assert_eq!(code(&old), 4, "{}", stderr(&old));
}

#[test]
fn a_public_key_stands_for_the_private_one_beside_it() {
    let (desk, upstream) = (Desk::without_key(), Upstream::new("v1.20.2"));
    pair(&desk.path(""), "ed25519", "plain", false);
    let built = build(&desk, &upstream, "x.pot", &desk.path("plain.pub"), &[]);
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    let signers = trusting(&desk, "signers", &read(&desk.path("plain.pub")));
    let checked = desk.kpot(&["verify", "x.pot", "--signers", &signers]);
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
}

#[test]
fn a_key_that_nobody_holds_is_told_before_anything_is_fetched() {
    let (desk, upstream) = (Desk::without_key(), Upstream::new("v1.20.2"));
    let folder = desk.path("");
    pair(&folder, "ed25519", "ops", true);
    pair(&folder, "ed25519", "held", true);
    pair(&folder, "rsa", "rsa", false);
    // A public key with another one's private half beside it.
    std::fs::copy(desk.path("ops.pub"), desk.path("mixed.pub")).unwrap();
    pair(&folder, "ed25519", "plain", false);
    std::fs::copy(desk.path("plain"), desk.path("mixed")).unwrap();
    std::fs::create_dir(desk.path("empty")).unwrap();
    let agent = Agent::start();
    agent.add(&desk.path("held"));
    let (socket, empty) = (agent.socket(), desk.path("empty").display().to_string());
    let here = ("SSH_AUTH_SOCK", socket.as_str());
    let dead = ("SSH_AUTH_SOCK", empty.as_str());
    let add = format!("ssh-add {}", desk.path("ops").display());
    let rows: [(&str, Variables<'_>, &[&str]); 8] = [
        ("ops.pub", &[here], &["does not hold it", &add]),
        ("ops", &[here], &["no passphrase", "does not hold it", &add]),
        ("ops.pub", &[], &["no SSH agent answers", "ssh-agent", &add]),
        (
            "ops.pub",
            &[dead],
            &["no SSH agent answers", "ssh-agent", &add],
        ),
        ("mixed.pub", &[here], &["does not hold it", "ssh-add"]),
        ("rsa.pub", &[here], &["ssh-rsa", "kpot keygen"]),
        (
            "ops.pub",
            &[here, ("PATH", &empty)],
            &["ssh-add", "openssh-client"],
        ),
        ("none.pub", &[here], &["none.pub", "No such file"]),
    ];
    for (key, variables, told) in rows {
        let refused = build(&desk, &upstream, "x.pot", &desk.path(key), variables);
        let said = stderr(&refused);
        assert_eq!(code(&refused), 1, "{key}: {said}");
        for text in told {
            assert!(said.contains(text), "{key}: {text}: {said}");
        }
        assert!(upstream.server.seen("").is_empty(), "{key}");
        assert!(desk.made().is_empty(), "{key}");
    }
}

#[test]
fn what_is_given_as_a_signature_is_checked_before_anything_is_fetched() {
    let (desk, upstream) = (Desk::without_key(), Upstream::new("v1.20.2"));
    let key = pair(&desk.path(""), "ed25519", "ops", true);
    let other = pair(&desk.path(""), "ed25519", "other", false);
    let agent = Agent::start();
    agent.add(&key);
    let programs = desk.path("programs");
    std::fs::create_dir(&programs).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let other = other.display();
    // In the place of `ssh-keygen -Y sign -n kpot -f KEY SHA256SUMS`.
    for (does, told) in [
        (
            format!("-Y sign -n kpot -f {other} $7"),
            "it was made by SHA256:",
        ),
        (
            format!("-Y sign -n git -f {other} $7"),
            "the namespace \"git\"",
        ),
        (
            "-Y sign -n kpot -O hashalg=sha256 -f $6 $7".to_owned(),
            "sha512",
        ),
        ("-l -f $6 > SHA256SUMS.sig".to_owned(), "does not parse"),
        ("-l -f $6".to_owned(), "wrote no signature"),
        (
            "-Y sign -n kpot -f $6 nothing".to_owned(),
            "ssh-keygen -Y sign",
        ),
    ] {
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = -Y ]; then exec /usr/bin/ssh-keygen {does}; fi\nexec /usr/bin/ssh-keygen \"$@\"\n"
        );
        let program = programs.join("ssh-keygen");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let variables = [("SSH_AUTH_SOCK", agent.socket()), ("PATH", path.clone())];
        let variables = [0, 1].map(|index: usize| {
            let (name, value) = &variables[index];
            (*name, value.as_str())
        });
        let public = desk.path("ops.pub");
        let refused = build(&desk, &upstream, "x.pot", &public, &variables);
        let said = stderr(&refused);
        assert_eq!(code(&refused), 1, "{does}: {said}");
        assert!(said.contains(told), "{does}: {said}");
        assert!(upstream.server.seen("").is_empty(), "{does}");
        assert!(desk.made().is_empty(), "{does}");
    }
}

/// The pot with another signature.
fn signed_anew(pot: &[u8], armor: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (member, content) in members(pot) {
        let content = if member == Member::Signature {
            armor.as_bytes().to_vec()
        } else {
            content
        };
        bytes.extend(header::encode(&member, content.len() as u64).unwrap());
        bytes.extend(&content);
        bytes.resize(bytes.len() + header::padding(content.len() as u64), 0);
    }
    bytes.resize(bytes.len() + header::END, 0);
    bytes
}

#[test]
fn a_tokens_signature_is_good_where_somebody_touched_it() {
    let desk = desk_with_pot(&Upstream::new("v1.20.2"), &[]);
    let token = Token::new();
    let line = token.line(APPLICATION);
    let signers = trusting(&desk, "token_signers", &line);
    let pot = std::fs::read(desk.out().join("x.pot")).unwrap();
    let (_, sums) = signed(&pot);
    let said = |touch| (touch, touch);
    let verified = Touch {
        flags: 5,
        counter: 8,
        ..TOUCHED
    };
    let untouched = Touch {
        flags: 4,
        ..TOUCHED
    };
    let counted = Touch {
        counter: 8,
        ..TOUCHED
    };
    let elsewhere = Touch {
        application: "ssh:elsewhere",
        ..TOUCHED
    };
    // What was signed and what is told; whether ssh-keygen takes it, and whether kpot does. Whether somebody touched the token, ssh-keygen leaves to sshd to ask.
    for ((what, told), theirs, ours) in [
        (said(TOUCHED), true, true),
        (said(verified), true, true),
        (said(untouched), true, false),
        ((untouched, TOUCHED), false, false),
        ((TOUCHED, verified), false, false),
        ((TOUCHED, counted), false, false),
        ((elsewhere, TOUCHED), false, false),
        (said(elsewhere), false, false),
    ] {
        let armor = token.sign(&sums, what, told);
        let row = format!("{}/{} {}", told.flags, told.counter, told.application);
        let checked = verify(&desk.path(""), Path::new(&signers), armor.as_bytes(), &sums);
        assert_eq!(checked.status.success(), theirs, "{row}: {checked:?}");
        std::fs::write(desk.out().join("y.pot"), signed_anew(&pot, &armor)).unwrap();
        let checked = desk.kpot(&["verify", "y.pot", "--signers", &signers]);
        let expected = if ours { 0 } else { 4 };
        assert_eq!(code(&checked), expected, "{row}: {}", stderr(&checked));
        if ours {
            assert!(stdout(&checked).contains("SHA256:"), "{}", stdout(&checked));
        }
    }
}

#[test]
fn a_token_is_trusted_by_its_fingerprint_or_its_line_and_by_nothing_less() {
    let token = Token::new();
    let armor = token.sign(b"text", TOUCHED, TOUCHED);
    let verdict = |trust: &Trust| signature::verify(b"text", armor.as_bytes(), trust);
    let list = |text: &str| Trust::from_allowed_signers(text, SystemTime::now());
    let line = token.line(APPLICATION);
    let signer = verdict(&list(&format!("ops {line}")).unwrap()).unwrap();
    assert_eq!(signer.principal.as_deref(), Some("ops"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token.pub"), &line).unwrap();
    let theirs = support::ssh::run(folder.path(), "ssh-keygen", &["-l", "-f", "token.pub"]);
    let theirs = String::from_utf8(theirs).unwrap();
    assert!(theirs.contains(&signer.fingerprint), "{theirs}");
    verdict(&Trust::from_fingerprint(&signer.fingerprint).unwrap()).unwrap();

    let git = list(&format!("ops namespaces=\"git\" {line}")).unwrap();
    assert!(verdict(&git).unwrap_err().to_string().contains("\"git\""));
    let other = list(&format!("ops {}", Token::new().line(APPLICATION))).unwrap();
    assert!(verdict(&other).is_err());
    // The same key for another application is another key.
    let other = list(&format!("ops {}", token.line("ssh:elsewhere"))).unwrap();
    assert!(verdict(&other).is_err());
    assert!(list("ops sk-ssh-ed25519@openssh.com AAAA token").is_err());
}
