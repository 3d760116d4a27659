//! Plans of many versions, by table.

use super::*;

fn request(version: &str) -> Request {
    Request {
        kubernetes: version.parse().unwrap(),
        arch: Arch::Amd64,
        images: Vec::new(),
        files: Vec::new(),
        pins: Vec::new(),
        choice: Choice::default(),
    }
}

fn planned(request: &Request) -> Result<Plan, String> {
    plan(request, &Releases::shipped().unwrap())
}

fn names(plan: &Plan) -> Vec<String> {
    plan.images.iter().map(ImageName::familiar).collect()
}

#[test]
fn v1_14_0_is_planned_as_its_kubeadm_expects() {
    let plan = planned(&request("v1.14.0")).unwrap();
    assert_eq!(
        names(&plan),
        [
            "k8s.gcr.io/coredns:1.3.1",
            "k8s.gcr.io/etcd:3.3.10",
            "k8s.gcr.io/kube-apiserver:v1.14.0",
            "k8s.gcr.io/kube-controller-manager:v1.14.0",
            "k8s.gcr.io/kube-proxy:v1.14.0",
            "k8s.gcr.io/kube-scheduler:v1.14.0",
            "k8s.gcr.io/pause:3.1",
        ]
    );
    let urls: Vec<&str> = plan
        .downloads
        .iter()
        .map(|download| download.url.as_str())
        .collect();
    assert_eq!(
        urls,
        [
            "https://github.com/containernetworking/plugins/releases/download/v0.7.5/cni-plugins-amd64-v0.7.5.tgz",
            "https://download.docker.com/linux/static/stable/x86_64/docker-18.09.9.tgz",
            "https://dl.k8s.io/release/v1.14.0/bin/linux/amd64/kubeadm",
            "https://dl.k8s.io/release/v1.14.0/bin/linux/amd64/kubectl",
            "https://dl.k8s.io/release/v1.14.0/bin/linux/amd64/kubelet",
        ]
    );
    let kubelet = &plan.downloads[4];
    assert_eq!(
        kubelet.check,
        Check::Published {
            algorithm: Algorithm::Sha512,
            url: format!("{}.sha512", kubelet.url)
        }
    );
    assert!(matches!(plan.downloads[1].check, Check::Shipped(_)));
    assert_eq!(plan.name(), "kpot-v1.14.0-amd64");
    assert!(plan.warnings.is_empty());
}

#[test]
fn defaults_follow_the_era() {
    let rows = [
        (
            "v1.13.12",
            "18.09.9",
            "v0.7.5",
            "sha512",
            "k8s.gcr.io/coredns:1.2.6",
        ),
        (
            "v1.15.12",
            "18.09.9",
            "v0.7.5",
            "sha512",
            "k8s.gcr.io/coredns:1.3.1",
        ),
        (
            "v1.16.15",
            "18.09.9",
            "v0.7.5",
            "sha256",
            "k8s.gcr.io/coredns:1.6.2",
        ),
        (
            "v1.17.0",
            "19.03.15",
            "v0.7.5",
            "sha256",
            "k8s.gcr.io/coredns:1.6.5",
        ),
        (
            "v1.19.16",
            "19.03.15",
            "v0.8.7",
            "sha256",
            "k8s.gcr.io/coredns:1.7.0",
        ),
        (
            "v1.20.2",
            "20.10.23",
            "v0.8.7",
            "sha256",
            "k8s.gcr.io/coredns:1.7.0",
        ),
        (
            "v1.21.14",
            "20.10.23",
            "v0.8.7",
            "sha256",
            "k8s.gcr.io/coredns/coredns:v1.8.0",
        ),
        (
            "v1.23.17",
            "20.10.23",
            "v0.8.7",
            "sha256",
            "registry.k8s.io/coredns/coredns:v1.8.6",
        ),
    ];
    for (version, docker, cni, ending, coredns) in rows {
        let plan = planned(&request(version)).unwrap();
        assert_eq!(plan.runtime.version, docker, "{version}");
        assert_eq!(plan.cni, cni, "{version}");
        assert!(names(&plan).contains(&coredns.to_owned()), "{version}");
        let kubeadm = &plan.downloads[2];
        match &kubeadm.check {
            Check::Published { url, .. } => assert!(url.ends_with(ending), "{version}"),
            other => panic!("{version}: {other:?}"),
        }
    }
}

#[test]
fn later_plugins_say_linux_in_their_name() {
    let mut request = request("v1.20.2");
    request.choice.cni = Some("v1.7.1".parse().unwrap());
    assert_eq!(
        planned(&request).unwrap().downloads[0].url,
        "https://github.com/containernetworking/plugins/releases/download/v1.7.1/cni-plugins-linux-amd64-v1.7.1.tgz"
    );
    request.choice.cni = Some("1.7.1".parse().unwrap());
    assert!(
        planned(&request)
            .unwrap_err()
            .contains("--cni-version v1.7.1")
    );
}

#[test]
fn a_docker_that_nothing_vouches_for_is_refused() {
    let mut request = request("v1.20.2");
    request.choice.docker = Some("20.10.24".parse().unwrap());
    let refused = planned(&request).unwrap_err();
    assert!(refused.contains("--pin docker=sha256:HEX"), "{refused}");
    let digest = Sha256::of(b"an archive");
    request.pins = vec![Pin {
        of: of(ArtifactName::Docker),
        digest,
    }];
    let plan = planned(&request).unwrap();
    assert_eq!(plan.downloads[1].check, Check::Given(digest));
    assert_eq!(plan.runtime.version, "20.10.24");
    assert!(plan.warnings.is_empty(), "the same series is no surprise");
}

#[test]
fn where_nothing_vouches_for_the_default_docker_the_ways_out_are_told() {
    for minor in 13..=16 {
        let mut request = request(&format!("v1.{minor}.0"));
        request.arch = Arch::Arm64;
        let refused = planned(&request).unwrap_err();
        for way in ["--docker-version 19.03.15 or ", "--pin docker=sha256:HEX"] {
            assert!(refused.contains(way), "{way:?} is not in: {refused}");
        }
        // Each of them leads out.
        request.choice.docker = Some("19.03.15".parse().unwrap());
        assert!(planned(&request).is_ok(), "1.{minor}");
        request.choice.docker = None;
        request.choice.runtime = Some(RuntimeName::Containerd);
        let is_way = refused.contains("--runtime containerd");
        assert_eq!(planned(&request).is_ok(), is_way, "1.{minor}: {refused}");
        assert_eq!(is_way, minor >= 14);
    }
}

fn of(name: ArtifactName) -> Pinned {
    Pinned { name, arch: None }
}

#[test]
fn a_pin_for_one_architecture_holds_there_and_goes_before_one_for_all() {
    let (all, own) = (Sha256::of(b"all"), Sha256::of(b"own"));
    let pins = [format!("docker={all}"), format!("docker/arm64={own}")];
    let check = |arch, pins: &[String]| {
        let mut request = request("v1.20.2");
        request.arch = arch;
        request.choice.docker = Some("20.10.24".parse().unwrap());
        request.pins = pins.iter().map(|pin| pin.parse().unwrap()).collect();
        planned(&request).map(|plan| plan.downloads[1].check.clone())
    };
    assert_eq!(check(Arch::Amd64, &pins), Ok(Check::Given(all)));
    assert_eq!(check(Arch::Arm64, &pins), Ok(Check::Given(own)));
    assert!(
        check(Arch::Amd64, &pins[1..])
            .unwrap_err()
            .contains("--pin docker=")
    );
    assert!("docker/mips=sha256:00".parse::<Pin>().is_err());
}

#[test]
fn a_given_pin_wins_over_a_shipped_one_and_over_a_published_checksum() {
    let mut request = request("v1.14.0");
    let digest = Sha256::of(b"mine");
    request.pins = vec![
        Pin {
            of: of(ArtifactName::Docker),
            digest,
        },
        Pin {
            of: of(ArtifactName::Kubelet),
            digest,
        },
    ];
    let plan = planned(&request).unwrap();
    assert_eq!(plan.downloads[1].check, Check::Given(digest));
    assert_eq!(plan.downloads[4].check, Check::Given(digest));
    request.pins.push(Pin {
        of: of(ArtifactName::Kubelet),
        digest: Sha256::of(b"other"),
    });
    assert!(planned(&request).unwrap_err().contains("two digests"));
}

#[test]
fn another_docker_series_is_allowed_and_said() {
    let mut request = request("v1.14.0");
    request.choice.docker = Some("20.10.23".parse().unwrap());
    let plan = planned(&request).unwrap();
    assert!(plan.warnings[0].contains("18.09.9"), "{:?}", plan.warnings);
}

#[test]
fn versions_without_dockershim_have_containerd_and_no_docker() {
    for version in ["v1.24.0", "v1.28.15", "v1.36.3"] {
        let mut request = request(version);
        let plan = planned(&request).unwrap();
        assert_eq!(plan.runtime.name, RuntimeName::Containerd, "{version}");
        assert_eq!(plan.name(), format!("kpot-{version}-amd64"));
        assert!(
            plan.downloads
                .iter()
                .all(|it| it.name != ArtifactName::Docker)
        );
        request.choice.runtime = Some(RuntimeName::Docker);
        let refused = planned(&request).unwrap_err();
        assert!(refused.contains("dockershim was removed"), "{refused}");
    }
    assert!(
        planned(&request("v1.12.0"))
            .unwrap_err()
            .contains("1.13 to 1.36")
    );
}

#[test]
fn pots_of_one_version_with_other_runtimes_have_other_names() {
    let mut request = request("v1.20.2");
    for (runtime, name) in [
        (None, "kpot-v1.20.2-amd64"),
        (Some(RuntimeName::Docker), "kpot-v1.20.2-amd64"),
        (
            Some(RuntimeName::Containerd),
            "kpot-v1.20.2-containerd-amd64",
        ),
    ] {
        request.choice.runtime = runtime;
        assert_eq!(planned(&request).unwrap().name(), name);
    }
}

#[test]
fn containerd_brings_runc_and_crictl_for_every_version_that_may_have_it() {
    for minor in 14..=36 {
        for arch in Arch::ALL {
            let mut request = request(&format!("v1.{minor}.0"));
            request.arch = arch;
            request.choice.runtime = Some(RuntimeName::Containerd);
            let plan = planned(&request).unwrap();
            let names: Vec<&str> = plan.downloads.iter().map(|it| it.name.text()).collect();
            let expected = [
                "cni-plugins",
                "containerd",
                "crictl",
                "kubeadm",
                "kubectl",
                "kubelet",
                "runc",
            ];
            assert_eq!(names, expected, "1.{minor}");
            let own = |it: &&Download| {
                use ArtifactName::{Containerd, Crictl, Runc};
                [Containerd, Crictl, Runc].contains(&it.name)
            };
            for download in plan.downloads.iter().filter(own) {
                assert!(download.url.contains(arch.go()), "{}", download.url);
                match &download.check {
                    Check::Published { url, algorithm } => {
                        assert_eq!(*algorithm, Algorithm::Sha256);
                        assert!(url.contains(".sha256"), "{url}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(plan.warnings.iter().all(|it| !it.contains("by default")));
        }
    }
}

#[test]
fn another_containerd_series_is_allowed_where_the_kubelet_speaks_to_it_and_said() {
    let mut request = request("v1.34.4");
    request.choice.containerd = Some("1.7.30".parse().unwrap());
    let plan = planned(&request).unwrap();
    assert_eq!(plan.runtime.to_string(), "containerd 1.7.30");
    let told = plan.warnings.join("\n");
    assert!(told.contains("containerd 1.7.30 is not what"), "{told}");
}

#[test]
fn extra_images_join_the_set_once() {
    let mut request = request("v1.14.0");
    request.images = [
        "quay.io/coreos/flannel:v0.11.0",
        "k8s.gcr.io/pause:3.1",
        "busybox:1.36",
    ]
    .map(|name| name.parse().unwrap())
    .to_vec();
    let plan = planned(&request).unwrap();
    assert_eq!(plan.images.len(), 9);
    let digest = Sha256::of(b"manifest");
    request
        .images
        .push(format!("busybox:1.36@{digest}").parse().unwrap());
    assert!(planned(&request).unwrap_err().contains("twice"));
}

#[test]
fn a_given_tag_takes_the_place_of_that_in_the_version_data_and_that_is_told() {
    let images = |given: &[&str]| {
        let mut request = request("v1.20.2");
        request.images = given.iter().map(|name| name.parse().unwrap()).collect();
        planned(&request).unwrap()
    };
    let (old, new) = ("k8s.gcr.io/etcd:3.4.13-0", "k8s.gcr.io/etcd:3.4.14-0");
    let plan = images(&[new]);
    assert_eq!(plan.images.len(), 7);
    assert!(names(&plan).contains(&new.to_owned()));
    assert!(!names(&plan).contains(&old.to_owned()));
    let told = format!("the pot has {new} instead of {old}");
    assert!(
        plan.warnings.iter().any(|it| it.contains(&told)),
        "{:?}",
        plan.warnings
    );
    // Whoever names both gets both. Another repository is another image, and so is another version's API server.
    for (given, count) in [
        (&[old, new][..], 8),
        (&["quay.io/coreos/etcd:v3.4.14"], 8),
        (&["k8s.gcr.io/kube-apiserver:v1.20.5"], 8),
        (&[old], 7),
    ] {
        let plan = images(given);
        assert_eq!(plan.images.len(), count, "{given:?}");
        assert!(names(&plan).contains(&old.to_owned()), "{given:?}");
        let told = plan.warnings.iter().any(|it| it.contains("instead of"));
        assert!(!told, "{given:?}");
    }
    // One that is given with its digest is in the pot with it, and once.
    let digest = Sha256::of(b"x");
    for given in [old, "k8s.gcr.io/kube-proxy:v1.20.2", "k8s.gcr.io/pause:3.2"] {
        let pinned = format!("{given}@{digest}");
        let plan = images(&[&pinned]);
        assert_eq!(plan.images.len(), 7, "{given}");
        let of_it = |image: &&ImageName| image.familiar() == given;
        let digests: Vec<_> = plan
            .images
            .iter()
            .filter(of_it)
            .map(ImageName::digest)
            .collect();
        assert_eq!(digests, [Some(digest)], "{given}");
    }
}

#[test]
fn pins_and_versions_are_read_strictly() {
    let digest = Sha256::of(b"x");
    assert!(format!("docker={digest}").parse::<Pin>().is_ok());
    for text in [
        format!("dockerd={digest}"),
        format!("docker={}", digest.hex()),
        "docker".to_owned(),
    ] {
        assert!(text.parse::<Pin>().is_err(), "{text}");
    }
    for text in ["18.09.9", "v0.7.5", "1.2.3-rc.1+x"] {
        assert!(text.parse::<Version>().is_ok(), "{text}");
    }
    for text in ["", "../18", "1/2", "latest", "1 2"] {
        assert!(text.parse::<Version>().is_err(), "{text}");
    }
}

#[test]
fn a_docker_of_another_time_that_kpot_has_a_pin_for_is_planned_with_a_warning() {
    // 19.03, the default up to 1.19, does not start where cgroups are of version 2 alone.
    for arch in Arch::ALL {
        let mut asked = request("v1.19.16");
        asked.arch = arch;
        assert_eq!(planned(&asked).unwrap().runtime.version, "19.03.15");
        asked.choice.docker = Some("20.10.23".parse().unwrap());
        let plan = planned(&asked).unwrap();
        assert_eq!(plan.runtime.version, "20.10.23");
        let docker = plan
            .downloads
            .iter()
            .find(|it| it.name == ArtifactName::Docker)
            .unwrap();
        assert!(docker.url.ends_with("/docker-20.10.23.tgz"), "{arch}");
        assert!(matches!(docker.check, Check::Shipped(_)), "{arch}");
        assert!(plan.warnings[0].contains("by default (19.03.15)"));
    }
}

#[test]
fn what_comes_over_the_network_is_counted_and_a_file_of_this_machine_is_not() {
    let mut asked = request("v1.20.2");
    let before = planned(&asked).unwrap().transfers();
    assert_eq!(before, 5 + 7);
    let file = |name: &str, place| Extra {
        name: name.parse().unwrap(),
        version: "1".to_owned(),
        place,
    };
    let address = "https://files.example/a".parse().unwrap();
    asked.files = vec![
        file("here", Place::Here("here".into(), None)),
        file("there", Place::At(address, Sha256::of(b"x"))),
    ];
    assert_eq!(planned(&asked).unwrap().transfers(), before + 1);
}
