use super::*;

fn report(run_id: &str) -> ServerReport {
    ServerReport {
        run_id: run_id.to_owned(),
        eviction_policy: Some("noeviction".to_owned()),
        role: Role::Primary,
        loading: false,
        cluster_enabled: false,
        persistence: Persistence::Redis {
            append_only_file: true,
            snapshots: None,
            failed: Vec::new(),
        },
        used_bytes: Some(10),
        max_bytes: None,
    }
}

type Reports = Vec<(String, Result<ServerReport, StoreError>)>;

fn sound(count: u16) -> Reports {
    (0..count).map(|i| (format!("host:{}", 7000 + i), Ok(report(&format!("id{i}"))))).collect()
}

/// Six servers, the third of them changed.
fn with(change: impl FnOnce(&mut ServerReport)) -> Findings {
    let mut reports = sound(6);
    change(reports[2].1.as_mut().unwrap());
    judge(&reports, 6, false)
}

#[track_caller]
fn one(findings: &Findings) -> (Consequence, Check, &str) {
    let [finding] = &findings.all[..] else { panic!("expected one finding: {findings:?}") };
    assert_eq!(finding.server.as_deref(), Some("host:7002"));
    (finding.consequence, finding.check, &finding.cure)
}

#[test]
fn sound_servers_have_no_findings_and_more_than_needed_are_fine() {
    assert_eq!(judge(&sound(6), 6, false), Findings::default());
    assert_eq!(judge(&sound(9), 6, false), Findings::default());
}

#[test]
fn eviction_is_refused_with_the_command_that_ends_it() {
    let findings = with(|report| report.eviction_policy = Some("allkeys-lru".to_owned()));
    let (consequence, check, cure) = one(&findings);
    assert_eq!((consequence, check), (Consequence::Refuse, Check::Eviction));
    assert!(cure.contains("redis-cli -h host -p 7002 config set maxmemory-policy noeviction"));
    assert!(findings.excludes("host:7002") && !findings.excludes("host:7001"));
    assert_eq!(findings.refusals().count(), 1);
}

#[test]
fn a_cluster_node_is_refused() {
    let findings = with(|report| report.cluster_enabled = true);
    assert_eq!(one(&findings).0, Consequence::Refuse);
}

#[test]
fn replicas_and_loading_servers_count_as_down() {
    let findings = with(|report| report.role = Role::Replica);
    assert_eq!((one(&findings).0, one(&findings).1), (Consequence::Degraded, Check::Primary));
    let findings = with(|report| report.loading = true);
    assert_eq!((one(&findings).0, one(&findings).1), (Consequence::Degraded, Check::Loaded));
    assert!(findings.excludes("host:7002"));
}

#[test]
fn one_server_behind_two_names_is_refused_and_under_dev_a_warning() {
    let findings = with(|report| report.run_id = "id0".to_owned());
    assert_eq!((one(&findings).0, one(&findings).1), (Consequence::Refuse, Check::Distinct));
    assert!(findings.all[0].what.contains("host:7000"));
    let mut reports = sound(6);
    for (_, report) in &mut reports {
        report.as_mut().unwrap().run_id = "same".to_owned();
    }
    assert_eq!(judge(&reports, 6, false).refusals().count(), 5);
    let findings = judge(&reports, 6, true);
    assert_eq!((findings.refusals().count(), findings.all.len()), (0, 5));
    assert!(!findings.excludes("host:7002"));
    assert_eq!(distinct_servers(&reports), 1);
}

#[test]
fn too_few_servers_are_refused_with_the_addresses_to_paste() {
    let findings = judge(&sound(2), 6, false);
    assert_eq!(findings.all[0].consequence, Consequence::Refuse);
    let text = findings.all[0].to_string();
    let list = "host:7000,host:7001,host:7002,host:7003,host:7004,host:7005";
    assert!(text.ends_with(&format!("-storage-addresses {list}")), "{text}");
    assert_eq!(judge(&sound(2), 6, true).all[0].consequence, Consequence::Warn);
    let directories = vec![("/a".to_owned(), Ok(report("a")))];
    assert!(judge(&directories, 6, false).all[0].cure.contains("-storage-dir"));
    assert_eq!(judge(&[], 6, false).refusals().count(), 1);
}

#[test]
fn a_server_that_is_away_is_degraded_and_not_refused() {
    let mut reports = sound(6);
    let error = StoreError::Unreachable { server: "host:7002".into(), source: "refused".into() };
    reports[2].1 = Err(error);
    let findings = judge(&reports, 6, false);
    let (consequence, check, cure) = one(&findings);
    assert_eq!((consequence, check), (Consequence::Degraded, Check::Reachable));
    assert!(cure.contains("redis-cli -h host -p 7002 ping"));
    assert!(findings.all[0].what.contains("refused"));
    assert_eq!(distinct_servers(&reports), 5);
}

#[test]
fn missing_or_failing_persistence_is_a_warning() {
    let persistence = |append_only_file, snapshots, failed: &[&str]| Persistence::Redis {
        append_only_file,
        snapshots,
        failed: failed.iter().map(|&name| name.to_owned()).collect(),
    };
    for (persistence, expected) in [
        (persistence(false, Some(true), &[]), None),
        (persistence(true, Some(false), &[]), None),
        (persistence(false, Some(false), &[]), Some(Check::Persistent)),
        (persistence(false, None, &[]), Some(Check::Persistent)),
        (persistence(true, None, &["rdb_last_bgsave_status"]), Some(Check::PersistenceWorks)),
        (Persistence::Synced, None),
        (Persistence::None, None),
    ] {
        let findings = with(|report| report.persistence = persistence.clone());
        assert_eq!(findings.all.first().map(|finding| finding.check), expected, "{persistence:?}");
        assert!(findings.all.iter().all(|finding| finding.consequence == Consequence::Warn));
    }
}

#[test]
fn memory_is_warned_of_above_four_fifths() {
    for (used, expected) in [(800, 0), (801, 1)] {
        let findings = with(|report| {
            report.used_bytes = Some(used);
            report.max_bytes = Some(1000);
        });
        assert_eq!(findings.all.len(), expected);
    }
}

#[test]
fn the_worst_comes_first() {
    let mut reports = sound(6);
    reports[0].1.as_mut().unwrap().persistence =
        Persistence::Redis { append_only_file: false, snapshots: None, failed: Vec::new() };
    reports[1].1.as_mut().unwrap().loading = true;
    reports[2].1.as_mut().unwrap().cluster_enabled = true;
    let findings = judge(&reports, 6, false);
    let order: Vec<_> = findings.all.iter().map(|finding| finding.consequence).collect();
    assert_eq!(order, [Consequence::Refuse, Consequence::Degraded, Consequence::Warn]);
}

#[test]
fn fewer_servers_tolerate_fewer_losses() {
    let expected = [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2), (9, 2)];
    for (servers, losses) in expected {
        assert_eq!(tolerance(servers, 4, 2), losses, "{servers} servers");
    }
}
