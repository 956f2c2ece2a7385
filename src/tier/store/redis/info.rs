//! What INFO tells.

use std::collections::HashMap;

use crate::tier::store::{Persistence, Role, ServerReport};

/// Reads the answers to INFO and to `CONFIG GET save` (absent where the server does not allow it); `None` when it is no
/// INFO of a redis server.
pub(super) fn report(info: &str, save: Option<&str>) -> Option<ServerReport> {
    let fields: HashMap<&str, &str> =
        info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let text = |name: &str| fields.get(name).copied();
    let flag = |name: &str| text(name) == Some("1");
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    let failed = ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"];
    let failed = failed
        .into_iter()
        .filter(|name| text(name).is_some_and(|status| status != "ok"))
        .map(str::to_owned)
        .collect();
    let saved = number("rdb_saves").filter(|saves| *saves > 0).map(|_| true);
    Some(ServerReport {
        run_id: text("run_id").filter(|id| !id.is_empty())?.to_owned(),
        eviction_policy: text("maxmemory_policy").map(str::to_owned),
        role: if text("role") == Some("slave") { Role::Replica } else { Role::Primary },
        loading: flag("loading"),
        cluster_enabled: flag("cluster_enabled"),
        persistence: Persistence::Redis {
            append_only_file: flag("aof_enabled"),
            snapshots: save.map(|save| !save.trim().is_empty()).or(saved),
            failed,
        },
        used_bytes: number("used_memory"),
        max_bytes: number("maxmemory").filter(|limit| *limit > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n# Memory\r\nused_memory:1000\r\n\
        maxmemory:2000\r\nmaxmemory_policy:allkeys-lru\r\n# Persistence\r\nloading:1\r\naof_enabled:0\r\n\
        aof_last_write_status:err\r\nrdb_last_bgsave_status:ok\r\n# Replication\r\nrole:slave\r\n# Cluster\r\n\
        cluster_enabled:1\r\n";

    #[test]
    fn every_fact_is_found() {
        let report = report(INFO, Some("")).unwrap();
        assert_eq!(report.run_id, "abc");
        assert_eq!(report.eviction_policy.as_deref(), Some("allkeys-lru"));
        assert_eq!(report.role, Role::Replica);
        assert!(report.loading && report.cluster_enabled);
        let failed = vec!["aof_last_write_status".to_owned()];
        let expected =
            Persistence::Redis { append_only_file: false, snapshots: Some(false), failed };
        assert_eq!(report.persistence, expected);
        assert_eq!((report.used_bytes, report.max_bytes), (Some(1000), Some(2000)));
    }

    #[test]
    fn a_text_without_a_run_id_is_no_report() {
        assert_eq!(report("", None), None);
        assert_eq!(report("run_id:\r\n", None), None);
        assert_eq!(report("hello", None), None);
    }

    #[test]
    fn no_limit_and_no_config_are_unknown() {
        let report = report("run_id:x\r\nmaxmemory:0\r\n", None).unwrap();
        assert_eq!(report.max_bytes, None);
        assert!(matches!(report.persistence, Persistence::Redis { snapshots: None, .. }));
    }
}
