use super::*;
use serde_json::{Value, json};

fn refused(text: &str) -> String {
    Recipe::parse(text).unwrap_err()
}

/// The template with the marks taken away from its examples: lines with a `#` and no space behind it.
fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(example) if example.starts_with("  ") || !example.starts_with([' ', '#']) => example,
        _ => line,
    };
    TEMPLATE.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// What an editor would say of it.
fn editor(text: &str) -> Result<(), String> {
    let schema = Value::from(Recipe::schema());
    let document: Value = serde_saphyr::from_str(text).unwrap();
    jsonschema::validate(&schema, &document).map_err(|problem| problem.to_string())
}

#[test]
fn the_template_is_a_recipe_with_and_without_its_comments() {
    let recipe = Recipe::parse(TEMPLATE).unwrap();
    assert_eq!(recipe.k8s.unwrap().read(), "1.20".parse().unwrap());
    assert!(recipe.images.is_none() && recipe.files.is_none() && recipe.pins.is_none());
    editor(TEMPLATE).unwrap();

    let whole = uncommented();
    let recipe = Recipe::parse(&whole).unwrap();
    assert_eq!(recipe.images.unwrap().len(), 2);
    assert_eq!(recipe.mirrors.unwrap().0.len(), 2);
    assert_eq!(recipe.pins.unwrap().len(), 1);
    assert_eq!(recipe.serial, Some(1));
    let files: Vec<Extra> = recipe
        .files
        .unwrap()
        .into_iter()
        .map(|file| file.file(Path::new("/here")))
        .collect();
    let names: Vec<&str> = files.iter().map(|file| file.name.file()).collect();
    assert_eq!(names, ["kube-flannel.yml", "runbook.txt", "etcd-defrag"]);
    assert_eq!(files[0].place(), "/here/manifests/kube-flannel.yml");
    assert_eq!(files[1].place(), "/srv/docs/runbook.txt");
    assert_eq!(files[0].version, "-");
    assert_eq!(files[2].version, "v2");
    editor(&whole).unwrap();
    // Every field that there is stands in it.
    for field in Value::from(Recipe::schema())["properties"]
        .as_object()
        .unwrap()
        .keys()
    {
        assert!(whole.contains(&format!("\n{field}:")), "{field}");
    }
}

#[test]
fn what_is_wrong_is_told_with_line_and_column() {
    let hex = "0".repeat(64);
    let two =
        format!("files:\n  - path: a\n    url: https://x.example/a\n    digest: sha256:{hex}\n");
    for (text, place, word) in [
        ("k8s: v1.20.2\nimagse: [a]\n", "line 2 column 1", "`imagse`"),
        (
            "k8s: v1.20.2\n\n  \nK8S: v1.20.2\n",
            "line 4 column 1",
            "`K8S`",
        ),
        ("docker_version: 1\n", "line 1 column 1", "`docker_version`"),
        (
            "files:\n  - path: a\n    mode: 755\n",
            "line 3 column 5",
            "`mode`",
        ),
        (
            "k8s: 2.20\n",
            "line 1 column 6",
            "\"2.20\" is not a Kubernetes version",
        ),
        ("k8s: [v1.20.2]\n", "line 1 column 6", "expected a text"),
        (
            "k8s: v1.20.2\nk8s: v1.20.3\n",
            "line 2 column 1",
            "not allowed here",
        ),
        ("arch:\n  - amd64\n  - s390x\n", "line 3 column 5", "s390x"),
        (
            "images:\n  - busybox\n  - UPPER/x\n",
            "line 3 column 5",
            "UPPER/x",
        ),
        (
            "mirrors:\n  a.example: https://b.example/\n  c.example: ftp://x/\n",
            "line 3 column 14",
            "neither http nor https",
        ),
        ("pins:\n  docker: md5:00\n", "line 2 column 11", ""),
        ("pins:\n  dokcer: sha256:00\n", "line 2 column 3", "dokcer"),
        ("serial: -1\n", "line 1 column 9", "expected a whole number"),
        (
            "serial: 18446744073709551616\n",
            "line 1 column 9",
            "number",
        ),
        ("arch: amd64\n", "line 1 column 7", "expected a list"),
        (
            "files:\n  - name: x\n",
            "line 2 column 5",
            "either a path or a url",
        ),
        (
            "files:\n  - url: https://x.example/a\n",
            "line 2 column 5",
            "needs its digest",
        ),
        ("files:\n  - path: ..\n", "line 2 column 5", "name:"),
        ("files:\n  - path: a b\n", "line 2 column 5", "name:"),
        (two.as_str(), "line 2 column 5", "either a path or a url"),
        ("k8s: v1.20.2\n---\nk8s: v1.20.3\n", "line 3 column 1", ""),
        ("just a text\n", "line 1 column 1", "expected fields"),
        ("k8s: \"v1.20.2\n", "line ", "column"),
    ] {
        let told = refused(text);
        assert!(told.starts_with(place), "{text}: {told}");
        assert!(told.contains(word), "{text}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_version_that_looks_like_a_number_keeps_its_zero() {
    for text in ["k8s: 1.20\n", "k8s: \"1.20\"\n", "k8s: '1.20'\n"] {
        let recipe = Recipe::parse(text).unwrap();
        assert_eq!(recipe.k8s.unwrap().read(), "1.20".parse().unwrap());
        editor(text).unwrap();
    }
}

#[test]
fn an_empty_recipe_and_empty_fields_ask_for_nothing() {
    for text in [
        "",
        "# nothing\n",
        "images:\nfiles:\nmirrors:\npins:\narch:\nk8s:\nruntime:\n",
    ] {
        let recipe = Recipe::parse(text).unwrap();
        assert!(recipe.k8s.is_none() && recipe.images.is_none());
        assert!(recipe.files.is_none() && recipe.mirrors.is_none());
    }
}

#[test]
fn an_editor_refuses_what_kpot_refuses() {
    for text in [
        "imagse: [a]\n",
        "k8s: latest\n",
        "arch: [s390x]\n",
        "runtime: cri-o\n",
        "runtime: [docker]\n",
        "images: busybox\n",
        "mirrors: {a.example: \"ftp://x\"}\n",
        "pins: {dokcer: \"sha256:00\"}\n",
        "pins: {docker: \"md5:00\"}\n",
        "serial: -1\n",
        "files: [{name: x}]\n",
        "files: [{url: \"https://x.example/a\"}]\n",
        "files: [{path: x, mode: 755}]\n",
    ] {
        assert!(Recipe::parse(text).is_err(), "{text}");
        assert!(editor(text).is_err(), "{text}");
    }
    let schema = Value::from(Recipe::schema());
    assert_eq!(schema["additionalProperties"], json!(false));
    assert!(schema["properties"]["k8s"]["description"].is_string());
}
