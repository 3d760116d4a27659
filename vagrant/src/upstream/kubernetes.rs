//! Kubernetes of an era, out of its released module: kubeadm, kubelet, kubectl, the four control-plane programs, its
//! pause container, and up to 1.2x its etcd, whose version its tree pins.
//!
//! One recipe for every version; what differs is data (`eras.json`). All programs are built in one go, because their
//! libraries are most of the work: C is allowed throughout (the kubelet needs it), yet linked statically, and names and
//! users are looked up by Go itself. Each program must say its version before it is kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::eras::{Era, Openapi, Replacements, Staging};
use crate::sh::{self, Sh};
use crate::upstream::golang::{self, Cgo, Module, Workshop};

/// What dl.k8s.io serves of them: the programs that run on the node itself.
pub const NODE_PROGRAMS: [&str; 3] = ["kubeadm", "kubelet", "kubectl"];
/// The programs that run in containers.
pub const IMAGE_PROGRAMS: [&str; 4] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
];

/// The file beside the programs with the time of their version's commit.
pub const COMMITTED: &str = "committed";

const MODULE: &str = "k8s.io/kubernetes";

/// The same for everything in a tree, so that what two builds share is compiled once. Names and users are looked up by
/// Go itself.
const BUILD: [&str; 5] = [
    "build",
    "-trimpath",
    golang::NO_DEBUGGING,
    "-tags",
    "netgo,osusergo",
];

/// Builds an era's programs into the new directory `out`.
pub fn build(workshop: &Workshop, era: &Era, replace: &Replacements, out: &Path) -> Result<()> {
    let version = era.kubernetes;
    let name = format!("kubernetes-{version}");
    let go = workshop.go(&era.go, Cgo::On)?;
    let module = workshop.download(MODULE, &version.to_string())?;

    let commands: Vec<String> = NODE_PROGRAMS
        .iter()
        .chain(&IMAGE_PROGRAMS)
        .map(|program| format!("./cmd/{program}"))
        .collect();
    let packages = || commands.iter().chain(&era.etcd.tree);

    let tree = sh::step(
        &format!("Kubernetes {version}: sources and modules"),
        || {
            let tree = workshop.copy_tree(&module, &name)?;
            take_staging(workshop, &go, era, &tree)?;
            golang::replace_modules(&go, &tree, replace)?;
            golang::apply(&era.edits, &tree)?;
            // Fetches every module and fills go.sum. Without it, vendoring leaves packages out.
            go.clone()
                .args(["list", "-deps", "-e"])
                .args(packages())
                .dir(&tree)
                .run()?;
            if era.openapi == Openapi::Generate {
                generate_openapi(workshop, &go, era, &tree, &name)?;
            }
            Ok(tree)
        },
    )?;

    let built = workshop.fresh_dir(&format!("{name}.out"))?;
    sh::step(
        &format!(
            "Kubernetes {version}: compiling {} programs",
            packages().count()
        ),
        || {
            go.clone()
                .args(BUILD)
                .args(["-ldflags", &stamps(era, &module)?, "-o"])
                .arg(format!("{}/", built.display()))
                .args(packages())
                .dir(&tree)
                .run()
        },
    )?;
    let pause = format!("-DVERSION=v{}", era.pause.tag);
    Sh::new("gcc")
        .args(["-Os", "-Wall", "-static", "-s", &pause, "-o"])
        .arg(built.join("pause"))
        .arg(tree.join(&era.pause.source))
        .run()?;

    sh::write_atomic(
        &built.join(COMMITTED),
        module.committed()?.as_bytes(),
        0o644,
    )?;

    check(era, &built)?;
    sh::rename(&built, out)?;
    sh::discard(&tree)
}

/// Gives go.mod staging modules that exist outside of Kubernetes' own repository.
fn take_staging(workshop: &Workshop, go: &Sh, era: &Era, tree: &Path) -> Result<()> {
    let edit = || go.clone().args(["mod", "edit"]).dir(tree);
    match &era.staging {
        Staging::Modules => {
            let go_mod = sh::read_text(&tree.join("go.mod"))?;
            let replace = staging_names(&go_mod);
            ensure!(
                !replace.is_empty(),
                "go.mod of {} replaces no staging modules",
                era.kubernetes
            );
            let version = format!("v0.{}.{}", era.kubernetes.minor, era.kubernetes.patch);
            edit()
                .args(
                    replace
                        .iter()
                        .map(|name| format!("-replace=k8s.io/{name}=k8s.io/{name}@{version}")),
                )
                .run()
        }
        Staging::Folders {
            go_mod_of,
            without,
            with,
        } => {
            let lender = workshop.download(MODULE, &go_mod_of.to_string())?;
            sh::copy(&lender.dir.join("go.mod"), &tree.join("go.mod"))?;
            sh::set_mode(&tree.join("go.mod"), 0o644)?;
            for name in staging_folders(tree)? {
                let text = format!("module k8s.io/{name}\n\ngo 1.12\n");
                sh::write_atomic(
                    &tree.join("staging/src/k8s.io").join(&name).join("go.mod"),
                    text.as_bytes(),
                    0o644,
                )?;
            }
            for name in without {
                edit()
                    .args([
                        format!("-droprequire=k8s.io/{name}"),
                        format!("-dropreplace=k8s.io/{name}"),
                    ])
                    .run()?;
            }
            for name in with {
                edit()
                    .arg(format!("-require=k8s.io/{name}@v0.0.0"))
                    .arg(format!(
                        "-replace=k8s.io/{name}=./staging/src/k8s.io/{name}"
                    ))
                    .run()?;
            }
            Ok(())
        }
    }
}

/// The modules that a go.mod replaces by folders of its staging area, without their `k8s.io/`.
fn staging_names(go_mod: &str) -> Vec<&str> {
    go_mod
        .lines()
        .filter_map(|line| line.trim().split_once(" => ./staging/src/k8s.io/"))
        .filter_map(|(module, _)| {
            module
                .trim_start_matches("replace ")
                .strip_prefix("k8s.io/")
        })
        .collect()
}

fn staging_folders(tree: &Path) -> Result<Vec<String>> {
    sh::names_in(&tree.join("staging/src/k8s.io"))
}

/// Writes `pkg/generated/openapi/zz_generated.openapi.go`, which Kubernetes' own builds generate and its releases up to
/// 1.2x leave out. The apiserver compiles without it and dies with "cannot find model definition".
///
/// The generator of that time knows no modules: it wants a GOPATH, which the vendored tree becomes by one link. Built
/// without paths, it has to be told where Go is.
fn generate_openapi(
    workshop: &Workshop,
    go: &Sh,
    era: &Era,
    tree: &Path,
    name: &str,
) -> Result<()> {
    go.clone().args(["mod", "vendor", "-e"]).dir(tree).run()?;
    let gopath = workshop.fresh_dir(&format!("{name}.gopath"))?;
    let generator = gopath.join("openapi-gen");
    go.clone()
        .args(BUILD)
        .arg("-o")
        .arg(&generator)
        .arg("k8s.io/kube-openapi/cmd/openapi-gen")
        .dir(tree)
        .run()?;
    if let Staging::Folders { .. } = era.staging {
        for folder in staging_folders(tree)? {
            let vendored = tree.join("vendor/k8s.io").join(&folder);
            sh::remove(&vendored)?;
            sh::symlink(
                &Path::new("../../staging/src/k8s.io").join(&folder),
                &vendored,
            )?;
        }
    }
    let inside = gopath.join("src/k8s.io/kubernetes");
    sh::symlink(tree, &inside)?;

    let mut tagged = Vec::new();
    find_tagged(&inside, MODULE, &mut tagged)?;
    ensure!(
        !tagged.is_empty(),
        "no package of {} asks for OpenAPI definitions",
        era.kubernetes
    );
    // By PWD it believes to be inside the GOPATH, where it looks for vendored packages; the working directory alone is
    // the link's target.
    let package = "k8s.io/kubernetes/pkg/generated/openapi";
    go_path_settings(
        Sh::new(&generator),
        go,
        &workshop.toolchain(&era.go)?,
        &gopath,
    )
    .args([
        "-i",
        &tagged.join(","),
        "-p",
        package,
        "-O",
        "zz_generated.openapi",
        "-h",
        "/dev/null",
        "-r",
        "/dev/null",
    ])
    .env("PWD", &inside)
    .dir(&inside)
    .run()?;

    let generated = tree.join("pkg/generated/openapi/zz_generated.openapi.go");
    let text = sh::read_text(&generated)?.replace("k8s.io/kubernetes/vendor/k8s.io/", "k8s.io/");
    sh::write_atomic(&generated, text.as_bytes(), 0o644)?;
    sh::remove(&gopath)?;
    sh::remove(&tree.join("vendor"))
}

fn go_path_settings(generator: Sh, go: &Sh, goroot: &Path, gopath: &Path) -> Sh {
    generator
        .env_of(go)
        .env("GO111MODULE", "off")
        .env("GOROOT", goroot)
        .env("GOPATH", gopath)
        .env("GOFLAGS", "")
}

/// Collects the import paths of packages with the tag `+k8s:openapi-gen=`, as the Makefile of that time does.
fn find_tagged(dir: &Path, package: &str, found: &mut Vec<String>) -> Result<()> {
    let mut tagged = false;
    for name in sh::names_in(dir)? {
        let path = dir.join(&name);
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            let elsewhere =
                package == MODULE && (name.starts_with('_') || name == "staging" || name == "test");
            if !elsewhere
                && !name.starts_with("sample-")
                && name != "code-generator"
                && !name.starts_with('.')
            {
                find_tagged(&path, &format!("{package}/{name}"), found)?;
            }
        } else if !tagged
            && path.extension().is_some_and(|kind| kind == "go")
            && !name.ends_with("_test.go")
        {
            tagged = sh::read_text(&path)?.contains("+k8s:openapi-gen=");
        }
    }
    if tagged {
        found.push(package.to_owned());
    }
    Ok(())
}

/// The linker flags that tell every program what it is. The date is the commit's own: a build's would change the bytes.
fn stamps(era: &Era, module: &Module) -> Result<String> {
    let date = module.committed()?;
    let version = era.kubernetes;
    let mut stamp = BTreeMap::new();
    // The first from 1.15 on; the last two before that, in kubectl and everything else.
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
        "k8s.io/kubernetes/pkg/version",
    ] {
        let values = [
            ("gitVersion", version.to_string()),
            ("gitMajor", version.major.to_string()),
            ("gitMinor", version.minor.to_string()),
            ("gitTreeState", "clean".to_owned()),
            ("buildDate", date.clone()),
        ];
        let commit = era
            .commit
            .iter()
            .map(|commit| ("gitCommit", commit.clone()));
        let values = values.into_iter().chain(commit);
        stamp.extend(values.map(|(name, value)| (format!("{package}.{name}"), value)));
    }
    // Where some library brings C along, it is linked in too: images hold nothing but the program.
    Ok(golang::linker_flags(&stamp) + " -extldflags=-static")
}

/// Every program says its version and needs no libraries.
fn check(era: &Era, built: &Path) -> Result<()> {
    let version = era.kubernetes.to_string();
    let says = |program: &str, args: &[&str], texts: &[&str]| -> Result<()> {
        let said = Sh::new(built.join(program)).args(args).output()?;
        for text in texts {
            ensure!(
                said.contains(text),
                "{program} of era {version} does not say \"{text}\" but: {said}"
            );
        }
        Ok(())
    };
    let quoted = format!("\"{version}\"");
    let stamps: Vec<&str> = [quoted.as_str()]
        .into_iter()
        .chain(era.commit.as_deref())
        .collect();
    says("kubeadm", &["version", "-o", "json"], &stamps)?;
    says("kubectl", &["version", "--client", "-o", "json"], &stamps)?;
    for program in ["kubelet"].iter().chain(&IMAGE_PROGRAMS) {
        says(program, &["--version"], &[&format!("Kubernetes {version}")])?;
    }
    let mut own = vec!["pause"];
    if !era.etcd.tree.is_empty() {
        own.extend(["etcd", "etcdctl"]);
        says(
            "etcd",
            &["--version"],
            &[&format!("etcd Version: {}", era.etcd.version)],
        )?;
    }
    for program in IMAGE_PROGRAMS.iter().chain(&NODE_PROGRAMS).chain(&own) {
        let libraries = Sh::new("ldd")
            .arg(built.join(program))
            .outcome()
            .context("looking for libraries")?;
        ensure!(
            !libraries.ok(),
            "{program} of era {version} is not static:\n{}",
            libraries.stdout
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_are_read_from_go_mod() {
        let go_mod = "module k8s.io/kubernetes\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tk8s.io/klog => \
                      k8s.io/klog v0.3.1\n\tk8s.io/client-go => ./staging/src/k8s.io/client-go\n)\n";
        assert_eq!(staging_names(go_mod), ["api", "client-go"]);
    }
}
