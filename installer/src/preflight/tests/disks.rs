//! Room on file systems, and what the kubelet does where it gets short.

use super::*;

#[test]
fn containerd_keeps_layers_beside_what_they_unpack_to() {
    let mut needs = needs();
    needs.runtime = runtime(RuntimeName::Containerd, "1.7.27");
    needs.to_write.layers = GB / 2;
    let needed = |available: u64| {
        let mut facts = good();
        facts.disks.images = space(100 * GB, available, 2);
        facts.disks.local_programs = space(100 * GB, GB, 3);
        run(&facts, &needs)
            .refusals()
            .find(|finding| finding.check == "disk-space")
            .map(|finding| finding.reason.clone())
    };
    assert_eq!(needed(1_500_000_000 + (128 << 20)), None);
    assert_eq!(
        needed(1_500_000_000).unwrap(),
        "the file system of containerd's images has 1500 MB available, and 1635 MB are needed"
    );
}

#[test]
fn what_does_not_fit_is_refused_with_figures() {
    let (mut facts, needs) = (good(), needs());
    // Twice the images while they are loaded, on a disk of their own.
    facts.disks.images = space(10 * GB, 2 * GB, 2);
    let report = run(&facts, &needs);
    let finding = report.refusals().next().unwrap();
    assert_eq!(finding.check, "disk-space");
    assert_eq!(
        finding.reason,
        "the file system of Docker's images has 2000 MB available, and 2135 MB are needed"
    );
}

#[test]
fn a_file_system_that_nobody_can_write_to_is_told_before_anything_is_changed() {
    let mut facts = good();
    facts.disks.programs.read_only = true;
    facts.disks.programs.device = 9;
    let mut needs = needs();
    needs.to_write.programs = 1;
    assert_eq!(refused(&facts, &needs).len(), 1);
    needs.to_write.programs = 0;
    assert!(refused(&facts, &needs).is_empty(), "what is there already");
}

#[test]
fn demands_on_one_file_system_add_up() {
    let available = |available: u64| {
        with(|facts, needs| {
            let disk = space(1000 * GB, available, 1);
            facts.disks = Disks {
                programs: disk,
                local_programs: disk,
                plugins: disk,
                images: disk,
                kubelet: disk,
                etcd: disk,
                state: disk,
            };
            needs.thresholds = KubeletThresholds::new(
                Some(100),
                &[("nodefs.available".to_owned(), "0".to_owned())].into(),
            )
            .unwrap();
        })
    };
    // 250 MB programs, 50 MB plugins, 2 GB images, 100 MB etcd, 128 MiB for its log, 128 MiB margin.
    let needed = 2_400_000_000 + (256 << 20);
    assert_eq!(available(needed - 1), ["disk-space"]);
    assert!(available(needed).is_empty());
}

#[test]
fn what_is_kept_of_a_master_that_goes_has_to_fit() {
    let reason = |available: u64, kept: u64| {
        let (mut facts, mut needs) = (good(), needs());
        facts.disks.state = space(100 * GB, available, 2);
        needs.to_write.kept = kept;
        let report = run(&facts, &needs);
        let mut refusals = report.refusals();
        let found = refusals.next().map(|finding| finding.reason.clone());
        let alone = match disk::keeps(&facts.disks, kept) {
            Verdict::Refuse { reason, .. } => Some(reason),
            Verdict::Good | Verdict::Warn { .. } => None,
        };
        assert_eq!(found, alone);
        found
    };
    let margin = 128 << 20;
    assert_eq!(reason(4 * GB + margin, 4 * GB), None);
    assert_eq!(
        reason(2 * GB, 4 * GB).unwrap(),
        "the file system of /var/lib/kpot has 2000 MB available, and 4135 MB are needed"
    );
}

#[test]
fn a_disk_so_full_that_the_kubelet_would_delete_the_images_is_refused_beforehand() {
    let (mut facts, mut needs) = (good(), needs());
    let disk = |available: u64| {
        let disk = space(100 * GB, available, 1);
        Disks {
            programs: disk,
            local_programs: disk,
            plugins: disk,
            images: disk,
            kubelet: disk,
            etcd: disk,
            state: disk,
        }
    };
    facts.disks = disk(16 * GB);
    let report = run(&facts, &needs);
    let finding = report.refusals().next().unwrap();
    assert_eq!(finding.check, "disk-thresholds");
    assert!(
        finding
            .reason
            .contains("will be 86 % full (14466 MB of 100000 MB available), and from 85 %"),
        "{}",
        finding.reason
    );
    assert!(
        finding
            .reason
            .contains("below 15 % the kubelet evicts pods and deletes images (imagefs.available)")
    );
    assert!(
        finding.remedy.contains("at least 1535 MB more"),
        "{}",
        finding.remedy
    );
    // What the remedy names is enough.
    facts.disks = disk(16 * GB + 1535 * 1_000_000);
    assert!(refused(&facts, &needs).is_empty());
    // So are the cluster's own thresholds.
    facts.disks = disk(5 * GB);
    let eviction = [("imagefs.available", "1Gi"), ("memory.available", "100Mi")];
    let eviction = eviction
        .map(|(signal, value)| (signal.to_owned(), value.to_owned()))
        .into();
    needs.thresholds = KubeletThresholds::new(Some(100), &eviction).unwrap();
    assert!(refused(&facts, &needs).is_empty());
    // A master that runs is not judged again.
    needs.thresholds = KubeletThresholds::default();
    needs.standing = Standing::Joined;
    assert!(refused(&facts, &needs).is_empty());
}

#[test]
fn thresholds_are_read_as_the_kubelet_reads_them() {
    for (text, threshold) in [
        ("15%", Threshold::Percent(15.0)),
        ("0%", Threshold::Percent(0.0)),
        ("0", Threshold::Bytes(0)),
        ("500M", Threshold::Bytes(500_000_000)),
        ("1.5Gi", Threshold::Bytes(3 << 29)),
    ] {
        assert_eq!(text.parse::<Threshold>().unwrap(), threshold, "{text}");
    }
    for text in ["", "%", "101%", "-1", "1Xi", "NaN%", "inf"] {
        assert!(text.parse::<Threshold>().is_err(), "{text}");
    }
}

#[test]
fn only_what_is_not_there_is_counted() {
    use crate::host::scripted::Scripted;
    use crate::steps::testing::{Machine, Pot};
    use bundle_spec::Sha256;

    let pot = Pot::default()
        .artifact("docker", &["docker", "dockerd"])
        .artifact("kubelet", &["kubelet"])
        .artifact("cni-plugins", &["bridge"])
        // Stays in the pot.
        .artifact("file.notes.txt", &["notes.txt"])
        .image("a:1", "{\"a\":1}", &[&[1; 100], &[2; 10]])
        .image("b:1", "{\"b\":2}", &[&[1; 100], &[3; 1]])
        .verified();
    let manifest = pot.manifest();
    let images = ["{\"a\":1}", "{\"b\":2}"].map(|config| Sha256::of(config.as_bytes()));
    let machine = Machine::new();
    let bare = to_write(&machine.view(Scripted::new()), manifest, &images, 5).unwrap();
    let expected = ToWrite {
        programs: "this is dockerthis is dockerdthis is kubelet".len() as u64,
        plugins: "this is bridge".len() as u64,
        // The shared layer once.
        images: 111,
        etcd: 5,
        ..ToWrite::default()
    };
    assert_eq!(bare, expected);
    machine
        .program("docker")
        .program("kubelet")
        .file("/opt/cni/bin/bridge", "");
    let script = Scripted::new().on("docker images", 0, &format!("{} a:1\n", images[0]));
    let used = to_write(&machine.view(script), manifest, &images, 0).unwrap();
    let expected = ToWrite {
        programs: "this is dockerd".len() as u64,
        plugins: 0,
        images: 101,
        ..ToWrite::default()
    };
    assert_eq!(used, expected);
}
