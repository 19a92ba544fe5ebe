use proptest::prelude::*;

use super::*;

fn entry(host: &str, port: u16) -> Entry {
    Entry { host: host.to_owned(), port }
}

fn two() -> Entries {
    Entries::from([
        ("orders".into(), entry("orders-service.dagster.internal", 4000)),
        ("no".into(), entry("12:30", 65_535)),
    ])
}

fn publisher() -> (tempfile::TempDir, Publisher) {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(folder.path().join("created/with/parents/workspace.yaml"));
    (folder, publisher)
}

#[test]
fn the_file_is_sorted_and_every_string_is_quoted() {
    insta::assert_snapshot!(render(&two()), @r#"
    # Written by codeloc, which overwrites every change.
    load_from:
      - grpc_server:
          host: "12:30"
          port: 65535
          location_name: "no"
      - grpc_server:
          host: "orders-service.dagster.internal"
          port: 4000
          location_name: "orders"
    "#);
}

#[test]
fn an_empty_workspace_is_an_empty_list() {
    let (_folder, publisher) = publisher();
    assert!(publisher.publish(&Entries::new()).unwrap());
    assert!(fs::read_to_string(publisher.path()).unwrap().ends_with("load_from: []\n"));
    assert_eq!(publisher.read().unwrap(), Entries::new());
}

#[test]
fn a_missing_file_has_no_entries() {
    let (_folder, publisher) = publisher();
    assert_eq!(publisher.read().unwrap(), Entries::new());
    assert!(!publisher.path().exists());
}

#[test]
fn equal_entries_are_not_written_again() {
    let (_folder, publisher) = publisher();
    assert!(publisher.publish(&two()).unwrap());
    let before = fs::metadata(publisher.path()).unwrap();
    assert!(!publisher.publish(&two()).unwrap());
    let after = fs::metadata(publisher.path()).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&before), std::os::unix::fs::MetadataExt::ino(&after));
    assert!(publisher.publish(&Entries::new()).unwrap());
    assert_eq!(publisher.read().unwrap(), Entries::new());
}

#[test]
fn all_users_may_read_and_no_temporary_file_stays() {
    let (_folder, publisher) = publisher();
    publisher.publish(&two()).unwrap();
    assert_eq!(fs::metadata(publisher.path()).unwrap().permissions().mode() & 0o777, 0o644);
    let names: Vec<_> =
        fs::read_dir(publisher.path().parent().unwrap()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["workspace.yaml"]);
}

#[test]
fn a_malformed_file_is_an_error_and_never_empty() {
    let (_folder, publisher) = publisher();
    publisher.publish(&two()).unwrap();
    let duplicate = "load_from:\n  - grpc_server: {host: a, port: 1, location_name: x}\n  - grpc_server: {host: b, port: 2, location_name: x}\n";
    for (text, reason) in [
        ("", "load_from"),
        ("load_from: [", "load_from"),
        ("load_from:\n  - python_file: own.py\n", "python_file"),
        ("load_from:\n  - grpc_server: {host: a, port: 70000, location_name: x}\n", "70000"),
        (duplicate, "it lists the location \"x\" twice"),
    ] {
        fs::write(publisher.path(), text).unwrap();
        let error = publisher.read().unwrap_err();
        assert!(matches!(error, WorkspaceError::Malformed { .. }), "{error:?}");
        let shown = error.to_string();
        assert!(
            shown.contains("workspace.yaml") && (shown.contains(reason) || reason == "load_from"),
            "{text:?}: {shown}"
        );
    }
}

#[test]
fn an_unwritable_folder_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let publisher = Publisher::new(folder.path().join("file/workspace.yaml"));
    let shown = publisher.publish(&two()).unwrap_err().to_string();
    assert!(shown.starts_with("cannot write the workspace file") && shown.contains("file/workspace.yaml"), "{shown}");
}

#[test]
fn a_repeated_write_error_has_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    // No user can create a file there, not even root.
    let publisher = Publisher::new("/proc/sys/workspace.yaml");
    let in_the_way = folder.path().join("workspace.yaml");
    fs::create_dir(&in_the_way).unwrap();
    for publisher in [publisher, Publisher::new(in_the_way)] {
        let shown = [(); 3].map(|()| publisher.publish(&two()).unwrap_err().to_string());
        assert!(shown.iter().all(|text| *text == shown[0]), "{shown:?}");
    }
}

#[test]
fn a_reader_sees_only_whole_files() {
    let (_folder, publisher) = publisher();
    let versions: Vec<Entries> = (0..40_u16)
        .map(|version| (0..=version).map(|index| (format!("location-{index}"), entry("host", version))).collect())
        .collect();
    publisher.publish(&versions[0]).unwrap();
    let path = publisher.path().to_owned();
    let known: Vec<String> = versions.iter().map(render).collect();
    let last = known.last().unwrap().clone();
    let reader = std::thread::spawn(move || {
        let mut seen = 0_usize;
        loop {
            let text = fs::read_to_string(&path).unwrap();
            assert!(known.contains(&text), "a partial file was visible: {text}");
            seen += 1;
            if text == last {
                return seen;
            }
        }
    });
    for version in &versions[1..] {
        assert!(publisher.publish(version).unwrap());
    }
    assert!(reader.join().unwrap() >= 1);
}

proptest! {
    #[test]
    fn any_strings_read_back_unchanged(
        entries in proptest::collection::btree_map(any::<String>(), (any::<String>(), any::<u16>()), 0..6),
    ) {
        let entries: Entries = entries.into_iter().map(|(name, (host, port))| (name, Entry { host, port })).collect();
        let text = render(&entries);
        prop_assert!(text.is_ascii());
        prop_assert_eq!(parse(&text).unwrap(), entries);
    }

    #[test]
    fn any_file_parses_or_fails_without_a_panic(text in any::<String>()) {
        let _ = parse(&text);
    }
}
