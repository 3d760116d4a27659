//! A machine below a temporary folder, a systemd that only remembers, and a pot that is really signed and verified.

#![allow(
    clippy::disallowed_methods,
    reason = "tests make the files of the machine that they look at"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bundle_spec::manifest::{
    Artifact, ArtifactFile, Blob, Checked, Encoding, Image, Runtime, RuntimeName, Windows,
};
use bundle_spec::{
    Arch, BlobSource, KubeVersion, Manifest, PotParts, Sha256, SigningKey, Trust, UnverifiedPot,
    VerifiedPot, write_pot,
};
use tempfile::TempDir;

use crate::host::command::Output;
use crate::host::scripted::Scripted;
use crate::host::{Host, HostView};
use crate::journal::{Change, Event, Journal};
use crate::step::{State, Step, View, World};

/// A machine whose files lie in a temporary folder.
pub(crate) struct Machine {
    root: TempDir,
    state: TempDir,
}

impl Machine {
    pub fn new() -> Self {
        let folder = || tempfile::tempdir().expect("a temporary folder can be made");
        Self {
            root: folder(),
            state: folder(),
        }
    }

    pub fn place(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    /// Writes a file of mode 0644.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        self.file_with_mode(path, content, 0o644)
    }

    pub fn file_with_mode(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> &Self {
        let place = self.place(path);
        let folder = place.parent().expect("a file lies in a folder");
        fs::create_dir_all(folder).expect("folders can be made");
        fs::write(&place, content).expect("a file can be written");
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("modes can be set");
        self
    }

    /// Puts a program of this name to /usr/bin; scripts answer for it.
    pub fn program(&self, name: &str) -> &Self {
        self.file_with_mode(
            &format!("/usr/bin/{name}"),
            format!("not the pot's {name}"),
            0o755,
        )
    }

    pub fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.place(path)).ok()
    }

    pub fn mode(&self, path: &str) -> u32 {
        let metadata = fs::metadata(self.place(path)).expect("the file is there");
        metadata.permissions().mode() & 0o7777
    }

    pub fn view(&self, script: Scripted) -> HostView {
        HostView::new(self.root.path(), Arc::new(script))
    }

    pub fn check(&self, step: &dyn Step, script: Scripted) -> State {
        let host = self.view(script);
        step.check(View {
            host: &host,
            cluster: None,
        })
        .expect("the state can be told")
    }

    /// Check, apply, check again, as the engine does; gives both states and what was run.
    pub fn ensure(&self, step: &dyn Step, script: Scripted) -> anyhow::Result<(State, State)> {
        let journal = Journal::new(self.state.path());
        journal.record(Event::Step {
            step: step.id().to_owned(),
        })?;
        let host = Host::new(self.view(script), &journal);
        let world = World {
            host: &host,
            cluster: None,
        };
        let before = step.check(world.view())?;
        step.apply(world)?;
        Ok((before, step.check(world.view())?))
    }

    /// The changes that the journal announces.
    pub fn journal(&self) -> Vec<Change> {
        Journal::read(self.state.path())
            .expect("the journal can be read")
            .into_iter()
            .filter_map(|entry| match entry.event {
                Event::Intent { change, .. } => Some(change),
                _ => None,
            })
            .collect()
    }

    /// Every file with its content, to see that nothing was changed.
    pub fn dump(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder can be listed") {
                let path = entry.expect("a folder can be listed").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let content = fs::read(&path).expect("a file can be read");
                    files.insert(path, content);
                }
            }
        }
        files
    }
}

/// Units by name, with `ActiveState` and `UnitFileState`.
pub(crate) type Units = Arc<Mutex<BTreeMap<String, (String, String)>>>;

/// A systemd that knows these units and remembers what is done to them.
pub(crate) fn units(list: &[(&str, &str, &str)]) -> Units {
    let unit = |(name, active, enabled): &(&str, &str, &str)| {
        (
            (*name).to_owned(),
            ((*active).to_owned(), (*enabled).to_owned()),
        )
    };
    Arc::new(Mutex::new(list.iter().map(unit).collect()))
}

/// The same as [`systemd`], of a machine whose units may lie in /etc/systemd/system: such a file can be neither masked nor, without an [Install] section, disabled, and a unit is gone
/// with its file when systemd reads its units again.
pub(crate) fn on_disk(machine: &Machine, script: Scripted, units: &Units) -> Scripted {
    let folder = machine.place("/etc/systemd/system");
    let mine: Vec<String> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("a folder can be listed").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let known = Arc::clone(units);
    let script = script.with(move |cmd, _| {
        if cmd.program != "systemctl" {
            return None;
        }
        let mut units = known
            .lock()
            .expect("no test panics while it holds this lock");
        let args: Vec<&str> = cmd.args.iter().map(String::as_str).collect();
        match args.as_slice() {
            ["mask", name] if folder.join(name).is_file() => Some(Output {
                status: 1,
                stderr: format!("Failed to mask unit: File {name} already exists.").into_bytes(),
                ..Output::default()
            }),
            ["disable", name] if units.get(*name).is_some_and(|unit| unit.1 == "static") => {
                Some(Output::default())
            }
            ["daemon-reload"] => {
                units.retain(|name, _| !mine.contains(name) || folder.join(name).is_file());
                Some(Output::default())
            }
            _ => None,
        }
    });
    systemd(script, units)
}

/// Answers `systemctl` from `units`; a unit is there when somebody enables or restarts it.
pub(crate) fn systemd(script: Scripted, units: &Units) -> Scripted {
    let units = Arc::clone(units);
    script.with(move |cmd, _| {
        if cmd.program != "systemctl" {
            return None;
        }
        let mut units = units.lock().expect("no test panics while it holds this lock");
        let args: Vec<&str> = cmd.args.iter().map(String::as_str).collect();
        let text = match args.as_slice() {
            ["daemon-reload"] => String::new(),
            ["show", _, name] => {
                let (load, (active, enabled)) = match units.get(*name) {
                    Some(unit) if unit.1 == "masked" => ("masked", unit.clone()),
                    Some(unit) => ("loaded", unit.clone()),
                    None => ("not-found", ("inactive".to_owned(), String::new())),
                };
                format!(
                    "LoadState={load}\nActiveState={active}\nUnitFileState={enabled}\nFragmentPath=\nNeedDaemonReload=no\n"
                )
            }
            ["list-unit-files", ..] => {
                let line = |(name, unit): (&String, &(String, String))| {
                    format!("{name} {} enabled", unit.1)
                };
                units.iter().map(line).collect::<Vec<_>>().join("\n")
            }
            [verb, name] => {
                let unit = units
                    .entry((*name).to_owned())
                    .or_insert_with(|| ("inactive".to_owned(), "disabled".to_owned()));
                match *verb {
                    "enable" => "enabled".clone_into(&mut unit.1),
                    "disable" | "unmask" => "disabled".clone_into(&mut unit.1),
                    "mask" => "masked".clone_into(&mut unit.1),
                    "restart" | "start" => "active".clone_into(&mut unit.0),
                    "stop" => "inactive".clone_into(&mut unit.0),
                    _ => return None,
                }
                String::new()
            }
            _ => return None,
        };
        Some(Output {
            status: 0,
            stdout: text.into_bytes(),
            stderr: Vec::new(),
        })
    })
}

/// A layer and how it is stored.
pub(crate) enum Packed<'c> {
    /// As it is.
    Plain(&'c [u8]),
    /// As a frame of zstd.
    Zstd(&'c [u8]),
    /// As a frame that goes on from another blob, which is stored as it is.
    After {
        reference: &'c [u8],
        content: &'c [u8],
    },
}

/// A frame of zstd (RFC 8878) with one raw block, of 256 to 65,791 bytes.
fn zstd_frame(content: &[u8]) -> Vec<u8> {
    // One segment, with a size of two bytes, from which 256 are taken.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x60];
    let size = u16::try_from(content.len() - 256).expect("the content is no larger");
    frame.extend(size.to_le_bytes());
    let block = u32::try_from(content.len()).expect("the content is small") << 3 | 1;
    frame.extend(&block.to_le_bytes()[..3]);
    frame.extend(content);
    frame
}

/// A pot made of these files and images.
#[derive(Default)]
pub(crate) struct Pot {
    kubernetes: Option<KubeVersion>,
    containerd: Option<String>,
    blobs: BTreeMap<Sha256, (Vec<u8>, Blob)>,
    artifacts: Vec<Artifact>,
    images: Vec<Image>,
}

impl Pot {
    /// A pot of this Kubernetes instead of 1.14.0.
    pub fn of(kubernetes: KubeVersion) -> Self {
        Self {
            kubernetes: Some(kubernetes),
            ..Self::default()
        }
    }

    /// Makes it one with containerd of this version, with runc and crictl, instead of Docker.
    pub fn containerd(mut self, version: &str) -> Self {
        self.containerd = Some(version.to_owned());
        let programs = ["containerd", "containerd-shim-runc-v2", "ctr"];
        self.artifact("containerd", &programs)
            .artifact("crictl", &["crictl"])
            .artifact("runc", &["runc"])
    }

    fn blob(&mut self, content: &[u8]) -> Sha256 {
        self.stored(content, content, Encoding::Identity)
    }

    fn stored(&mut self, stored: &[u8], content: &[u8], encoding: Encoding) -> Sha256 {
        let digest = Sha256::of(stored);
        let blob = Blob {
            digest,
            size: stored.len() as u64,
            encoding,
            unpacked_digest: Sha256::of(content),
            unpacked_size: content.len() as u64,
        };
        self.blobs.insert(digest, (stored.to_vec(), blob));
        digest
    }

    /// Adds an artifact whose files hold `this is NAME`.
    pub fn artifact(mut self, name: &str, files: &[&str]) -> Self {
        let files = files
            .iter()
            .map(|file| ArtifactFile {
                name: (*file).to_owned(),
                blob: self.blob(format!("this is {file}").as_bytes()),
            })
            .collect();
        self.artifacts.push(Artifact {
            name: name.to_owned(),
            version: "1".to_owned(),
            source: format!("https://example.com/{name}"),
            download: Sha256::of(name.as_bytes()),
            checked: Checked::GivenPin,
            files,
        });
        self
    }

    /// Adds an image with this config and these layers.
    pub fn image(self, name: &str, config: &str, layers: &[&[u8]]) -> Self {
        let layers: Vec<Packed<'_>> = layers.iter().map(|layer| Packed::Plain(layer)).collect();
        self.packed_image(name, config, &layers)
    }

    /// The same with layers that are stored in other ways.
    pub fn packed_image(mut self, name: &str, config: &str, layers: &[Packed<'_>]) -> Self {
        let config = self.blob(config.as_bytes());
        let layers = layers
            .iter()
            .map(|layer| match layer {
                Packed::Plain(content) => self.blob(content),
                Packed::Zstd(content) => self.stored(&zstd_frame(content), content, Encoding::Zstd),
                Packed::After { reference, content } => {
                    let reference = Sha256::of(reference);
                    let encoding = Encoding::ZstdReference { reference };
                    self.stored(&zstd_frame(content), content, encoding)
                }
            })
            .collect();
        self.images.push(Image {
            names: vec![name.to_owned()],
            id: config,
            config,
            layers,
            manifest: None,
        });
        self
    }

    /// Writes, signs, opens and verifies it.
    pub fn verified(mut self) -> Arc<VerifiedPot> {
        self.artifacts.sort_by(|a, b| a.name.cmp(&b.name));
        self.images.sort_by(|a, b| a.names.cmp(&b.names));
        let manifest = Manifest {
            format: 1,
            name: "kpot-test".to_owned(),
            serial: 1,
            kubernetes: self.kubernetes.unwrap_or(KubeVersion::new(1, 14, 0)),
            arch: Arch::Amd64,
            runtime: match &self.containerd {
                Some(version) => Runtime {
                    name: RuntimeName::Containerd,
                    version: version.clone(),
                },
                None => Runtime {
                    name: RuntimeName::Docker,
                    version: "18.09.9".to_owned(),
                },
            },
            cni: "v0.7.5".to_owned(),
            built_by: "0.1.0".to_owned(),
            windows: Windows::Usual,
            artifacts: self.artifacts.clone(),
            images: self.images.clone(),
            blobs: self.blobs.values().map(|(_, blob)| blob.clone()).collect(),
        };
        let key = SigningKey::generate().expect("a key can be made");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("test.pot");
        let mut file = fs::File::create(&path).expect("a file can be made");
        let parts = PotParts {
            installer: b"installer",
            readme: "read me\n",
            manifest: &manifest,
            blobs: &self,
            signer: Some(&key),
        };
        write_pot(&mut file, &parts).expect("a pot can be written");
        let trust =
            Trust::from_fingerprint(&key.fingerprint()).expect("a key's fingerprint is one");
        let pot = UnverifiedPot::open(&path)
            .and_then(|pot| pot.verify(&trust, &|_| {}))
            .expect("a fresh pot can be verified");
        Arc::new(pot)
    }
}

impl BlobSource for Pot {
    fn open(&self, digest: &Sha256) -> io::Result<Box<dyn Read>> {
        let content = self.blobs.get(digest).map(|(stored, _)| stored.clone());
        let content = content.ok_or_else(|| io::Error::other("no such blob"))?;
        Ok(Box::new(io::Cursor::new(content)))
    }
}
