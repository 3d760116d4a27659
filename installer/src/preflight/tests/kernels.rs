//! The kernel and its cgroups: what kubeadm and the kubelet bear.

use super::*;

#[test]
fn kernels_that_kubeadm_does_not_know_are_accepted_where_they_prove_themselves() {
    // As the sources of 1.14.0 have it: not anchored, and up to 5.x.
    for (release, known) in [
        ("3.10.0-1160.el7.x86_64", true),
        ("3.2.0-4-amd64", false),
        ("4.19.0", true),
        ("5.10.0-8-amd64", true),
        ("6.1.0-56-amd64", false),
        ("6.18.44-fc-v657", false),
    ] {
        assert_eq!(kubeadm_knows(V1_14, release), known, "{release}");
    }
    for release in ["4.19.0", "6.18.44-fc-v657"] {
        assert!(kubeadm_knows(KubeVersion::new(1, 17, 0), release));
    }
    for (minor, release, known) in [
        (31, "3.10.0-1160.el7.x86_64", true),
        (32, "4.18.0-553.el8_10.x86_64", false),
        (33, "4.19.0-27-amd64", true),
        // Up to 4.x, wherever that stands in the release.
        (13, "4.19.0", true),
        (13, "5.10.0-8-amd64", false),
        (13, "5.14.0-427.el9.x86_64", true),
        // It only warns.
        (34, "4.18.0-553.el8_10.x86_64", true),
        (36, "5.14.0-427.el9.x86_64", true),
        (36, "6.1.0-56-amd64", true),
    ] {
        let version = KubeVersion::new(1, minor, 0);
        assert_eq!(
            kubeadm_knows(version, release),
            known,
            "{version} {release}"
        );
    }
    let mut facts = good();
    assert!(
        ignored_check(V1_14, &facts, None).is_none(),
        "a known kernel needs no exception"
    );
    facts.kernel.release = "6.1.0-56-amd64".to_owned();
    let unknown = Some(Ignored::UnknownKernel);
    assert_eq!(ignored_check(V1_14, &facts, None), unknown);
    assert!(refused(&facts, &needs()).is_empty());
    assert_eq!(
        ignored_check(KubeVersion::new(1, 20, 2), &facts, None),
        None
    );
    // Without its configuration it must be seen to work.
    facts.kernel.options = None;
    assert_eq!(ignored_check(V1_14, &facts, None), unknown);
    facts.kernel.functions.namespaces.remove("pid");
    facts.kernel.functions.modules.remove("overlay");
    assert_eq!(
        system_verification_proved(V1_14, &facts).unwrap_err(),
        "namespaces of kind pid, the overlay file system"
    );
    assert_eq!(ignored_check(V1_14, &facts, None), None);
    assert_eq!(refused(&facts, &needs()), ["kernel-features"]);
}

#[test]
fn which_options_of_cgroups_are_demanded_depends_on_kubeadm_and_on_the_cgroups() {
    let mut facts = good();
    let options = facts.kernel.options.as_mut().unwrap();
    for gone in ["CPUACCT", "DEVICE", "FREEZER"] {
        options.remove(&format!("CGROUP_{gone}"));
    }
    let mut proved = |minor: u16, cgroups: CgroupVersion| {
        facts.cgroups.version = cgroups;
        facts.cgroups.controllers = owned(&[
            "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids",
        ]);
        system_verification_proved(KubeVersion::new(1, minor, 0), &facts)
    };
    let missing = "CONFIG_CGROUP_CPUACCT, CONFIG_CGROUP_DEVICE, CONFIG_CGROUP_FREEZER";
    assert_eq!(proved(34, CgroupVersion::V2).unwrap_err(), missing);
    assert_eq!(proved(35, CgroupVersion::V1).unwrap_err(), missing);
    proved(35, CgroupVersion::V2).unwrap();
}

#[test]
fn the_check_that_refuses_cgroup_v1_is_ignored_only_where_the_cluster_allows_it() {
    let (v1_34, v1_35) = (KubeVersion::new(1, 34, 0), KubeVersion::new(1, 35, 0));
    let mut facts = good();
    facts.cgroups.version = CgroupVersion::V1;
    assert_eq!(
        ignored_check(v1_35, &facts, Some(false)),
        Some(Ignored::CgroupV1)
    );
    for said in [None, Some(true)] {
        assert_eq!(ignored_check(v1_35, &facts, said), None, "{said:?}");
    }
    assert_eq!(
        ignored_check(v1_34, &facts, Some(false)),
        None,
        "no refusal"
    );
    facts.kernel.functions.modules.remove("overlay");
    assert_eq!(
        ignored_check(v1_35, &facts, Some(false)),
        None,
        "not proved"
    );
    facts = good();
    facts.cgroups.version = CgroupVersion::V2;
    assert_eq!(ignored_check(v1_35, &facts, Some(false)), None);
}

#[test]
fn a_kernel_without_an_option_or_without_a_readable_configuration_is_refused() {
    let lacking = |facts: &mut Facts, _: &mut Needs| {
        facts.kernel.options.as_mut().unwrap().remove("MEMCG");
    };
    assert_eq!(with(lacking), ["kernel-features"]);
    assert_eq!(
        with(|facts, _| facts.kernel.options = None),
        ["kernel-features"]
    );
}

#[test]
fn cgroups_must_fit_the_kubelet() {
    let unified = |minor: u16| {
        with(|facts, needs| {
            facts.cgroups.version = CgroupVersion::V2;
            facts.cgroups.controllers = owned(&["cpu", "cpuset", "io", "memory", "pids"]);
            needs.kubernetes = KubeVersion::new(1, minor, 0);
            needs.runtime = runtime(RuntimeName::Docker, "20.10.23");
        })
    };
    assert_eq!(unified(18), ["cgroups"]);
    assert!(unified(20).is_empty());
    assert_eq!(
        with(|_, needs| needs.kubernetes = KubeVersion::new(1, 35, 0)),
        ["cgroups"]
    );
    let allowed = with(|_, needs| {
        needs.kubernetes = KubeVersion::new(1, 35, 0);
        needs.fail_cgroup_v1 = Some(false);
    });
    assert!(allowed.is_empty());
    // From 1.31 on the kubelet knows the field, and obeys it.
    for (minor, said, refused) in [
        (30, Some(true), false),
        (31, Some(true), true),
        (34, Some(true), true),
        (34, Some(false), false),
        (34, None, false),
    ] {
        let found = with(|_, needs| {
            needs.kubernetes = KubeVersion::new(1, minor, 0);
            needs.fail_cgroup_v1 = said;
        });
        let expected: &[&str] = if refused { &["cgroups"] } else { &[] };
        assert_eq!(found, expected, "1.{minor}, {said:?}");
    }
    let missing = with(|facts, _| {
        facts.cgroups.controllers.remove("memory");
    });
    assert_eq!(missing, ["kernel-features", "cgroups"]);
}
