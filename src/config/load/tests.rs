use std::time::Duration;

use super::*;
use crate::config::Storage;
use crate::telemetry::Format;

fn load_with(line: &str, variables: &[(&str, &str)]) -> Result<Invocation, Error> {
    // An empty -config keeps the directory of the test out of it.
    let line = format!("-config= {line}");
    let arguments = line.split_whitespace().map(OsString::from);
    load(arguments, variables.iter().map(|(name, value)| (name.into(), value.into())))
}

fn run(line: &str, variables: &[(&str, &str)]) -> Config {
    match load_with(line, variables).unwrap() {
        Invocation::Run(config) => *config,
        other => panic!("{other:?}"),
    }
}

fn refused(line: &str) -> (u8, String) {
    let error = load_with(line, &[]).unwrap_err();
    (error.exit_code(), error.to_string())
}

fn redis(count: usize) -> String {
    (1..=count).map(|i| format!("10.0.0.{i}:6379")).collect::<Vec<_>>().join(",")
}

#[test]
fn nothing_given_is_enough() {
    let config = run("", &[]);
    assert_eq!(config.tlog_address.to_string(), "0.0.0.0:11211");
    assert_eq!((config.flush_size, config.flush_time), (25, Duration::from_secs(25)));
    assert_eq!((config.data_shards, config.parity_shards), (4, 2));
    assert_eq!(config.kafka_listeners[0].address.to_string(), "localhost:9092");
    let Storage::Directories(directories) = &config.storage else { panic!() };
    assert_eq!(directories.len(), 6);
    assert_eq!(directories[5], Path::new("tlog-data/shards/5"));
    assert!(config.is_default_key);
    assert_eq!(config.log.format, Format::Text);
    // The open TLog port and the public key.
    assert_eq!(config.notices.len(), 2, "{:?}", config.notices);
}

#[test]
fn flags_go_over_environment_over_file_over_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yml");
    std::fs::write(&file, "tlogserver:\n  k: 5\n  m: 3\n  flush-size: 7\n").unwrap();
    let line = format!("-config {} -k 6 -check", file.display());
    let Invocation::Check { text, refused } =
        load_with(&line, &[("TLOG_K", "9"), ("TLOG_M", "1")]).unwrap()
    else {
        panic!()
    };
    assert!(refused.is_none(), "{refused:?}");
    let line_of = |key: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(key)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line_of("k:"), "k: 6 # flag");
    assert_eq!(line_of("m:"), "m: 1 # environment TLOG_M");
    assert_eq!(line_of("flush-size:"), format!("flush-size: 7 # file {}", file.display()));
    assert_eq!(line_of("flush-time:"), "flush-time: 25 # default");
    assert_eq!(line_of("priv-key:"), "priv-key: '(hidden)' # default");
}

#[test]
fn the_last_of_a_repeated_flag_wins() {
    assert_eq!(run("-k 2 -k 3 -dev -dev=false", &[]).data_shards, 3);
}

#[test]
fn a_command_line_that_cannot_be_read_is_64_and_a_refused_one_78() {
    assert_eq!(refused("-flush-siez 3").0, 64);
    assert_eq!(refused("-flush-size many").0, 64);
    assert_eq!(
        refused("-k 0"),
        (64, "flag: k is `0`, expected a whole number from 1 to 16".to_owned())
    );
    assert_eq!(refused("-m 9").0, 64);
    assert_eq!(refused("-block-size 4097").0, 64);
    assert_eq!(refused("-with-slave-sync").0, 78);
    let error = load_with("", &[("TLOG_K", "x")]).unwrap_err();
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().starts_with("environment TLOG_K: k is `x`"));
}

#[test]
fn all_problems_are_told_at_once() {
    let (_, text) = refused("-flush-time x -log-format xml -memory-budget 1MiB -nonce 12");
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[test]
fn options_of_later_versions_are_refused_by_name_with_the_cure() {
    for line in [
        "-with-slave-sync",
        "-profile-address :6060",
        "-accept-address 10.0.0.1",
        "-wait-listen-addr :1",
        "-wait-connect-addr h:1",
        "-id other",
        "-ldlm-address h:1",
        "-comlog-address h:1",
        "-gazette-address h:1",
    ] {
        let (code, text) = refused(line);
        let name = line.split_whitespace().next().unwrap().trim_start_matches('-');
        assert_eq!(code, 78);
        assert!(text.starts_with(&format!("flag: {name} is not built yet; ")), "{text}");
        assert!(text.len() > 60, "no cure: {text}");
    }
    run("-with-slave-sync=false -id default -ldlm-address= -accept-address=", &[]);
}

#[test]
fn the_local_log_has_a_limit_only_where_one_is_given() {
    assert_eq!(run("", &[]).local_log_limit_bytes, None);
    assert_eq!(run("-local-log-limit 5GiB", &[]).local_log_limit_bytes, Some(5 << 30));
    let (code, text) = refused("-local-log-limit 1023MiB");
    assert_eq!(code, 64);
    assert!(text.contains("at least 1024 MiB"), "{text}");
}

#[test]
fn the_nonce_is_read() {
    assert_eq!(run("", &[]).base_nonce[..2], [0x37, 0xb8]);
    assert_eq!(run("-nonce 000102030405060708090a0b", &[]).base_nonce[11], 11);
}

#[test]
fn redis_needs_servers_of_its_own_and_a_key_of_its_own() {
    let (code, text) = refused(&format!("-storage-addresses {}", redis(6)));
    assert_eq!(code, 78);
    assert!(text.contains("default key is public"), "{text}");

    let key = "-priv-key abcdefghijklmnopqrstuvwxyz012345";
    let config = run(&format!("{key} -storage-addresses {}", redis(6)), &[]);
    assert!(matches!(&config.storage, Storage::Redis(servers) if servers.len() == 6));

    let (_, text) = refused(&format!("{key} -storage-addresses h:1,h:2,h:7@1"));
    let guess = "-storage-addresses h:1,h:2,h:7@1,h:8,h:9,h:10 ";
    assert!(text.contains(guess), "{text}");

    let six_names = format!("{key} -k 1 -m 1 -storage-addresses h:1@0,h:1@1");
    assert!(refused(&six_names).1.contains("h:1 more than once"));
    run(&format!("{six_names} -dev"), &[]);
    assert!(
        refused(&format!("{key} -dev -k 1 -m 1 -storage-addresses h:1,h:1")).1.contains("twice")
    );
    let config = run("-dev -storage-addresses h:1", &[]);
    assert!(config.notices.iter().any(|notice| notice.contains("default key is public")));
}

#[test]
fn shards_have_one_home() {
    let (_, text) = refused("-memorystorage -storage-dir /x");
    assert!(text.starts_with("memorystorage (flag) and storage-dir (flag) exclude"), "{text}");
    assert!(matches!(run("-memorystorage", &[]).storage, Storage::Memory));
}

#[test]
fn storage_directories_are_one_or_as_many_as_shards() {
    let one = run("-k 2 -m 1 -storage-dir /d", &[]).storage;
    assert_eq!(one, Storage::Directories(["/d/0", "/d/1", "/d/2"].map(Into::into).to_vec()));
    let many = run("-k 2 -m 1 -storage-dir /a,/b,/c", &[]).storage;
    assert_eq!(many, Storage::Directories(["/a", "/b", "/c"].map(Into::into).to_vec()));
    assert!(refused("-k 2 -m 1 -storage-dir /a,/b").1.contains("names 2 directories"));
    assert!(refused("-k 1 -m 1 -storage-dir /a,/a").1.contains("/a twice"));
}

#[test]
fn kafka_listeners_are_told_apart_by_name() {
    let config = run(
        "-kafka-address IN=127.0.0.1:0,OUT=0.0.0.0:9093 -kafka-advertised-address OUT=k.example:9093",
        &[],
    );
    let out = &config.kafka_listeners[1];
    assert_eq!(out.advertised.as_ref().unwrap().to_string(), "k.example:9093");
    assert!(config.kafka_listeners[0].advertised.is_none());
    assert!(refused("-kafka-address a:1,b:2").1.contains("twice"));
    assert!(refused("-kafka-address=").1.contains("at least one"));
    assert!(refused("-kafka-advertised-address 0.0.0.0:9092").1.contains("no client can connect"));
    assert!(refused("-kafka-advertised-address h:0").1.contains("no client can connect"));
    assert!(refused("-kafka-advertised-address X=h:1").1.contains("does not have"));
}

#[test]
fn an_empty_tlog_address_is_a_free_port_of_this_machine() {
    let config = run("-address=", &[]);
    assert_eq!(config.tlog_address.to_string(), "127.0.0.1:0");
}

#[test]
fn the_key_may_come_from_a_file_named_by_a_variable() {
    let config = run("", &[("TLOG_PRIV_KEY_FILE", "/run/key")]);
    assert_eq!(config.private_key.reveal(), "@/run/key");
    let both = [("TLOG_PRIV_KEY_FILE", "/run/key"), ("TLOG_PRIV_KEY", "x")];
    assert!(load_with("", &both).unwrap_err().to_string().contains("both give the key"));
}

#[test]
fn a_variable_of_no_option_is_told_with_the_nearest() {
    let config = run("", &[("TLOG_DATADIR", "/x"), ("HOME", "/root")]);
    let notice = &config.notices[0];
    assert!(notice.contains("TLOG_DATADIR is ignored") && notice.contains("TLOG_DATA_DIR?"));
}

#[test]
fn a_key_is_in_no_message() {
    let key = "correct-horse-battery-staple";
    let error =
        load_with(&format!("-priv-key {key} -k 0 -storage-addresses h:1"), &[]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(key));
    let Invocation::Check { text, .. } =
        load_with(&format!("-check -priv-key {key}"), &[]).unwrap()
    else {
        panic!()
    };
    assert!(!text.contains(key));
    assert!(!format!("{:?}", run(&format!("-priv-key {key}"), &[])).contains(key));
}

#[test]
fn help_and_version_are_answered_before_anything_is_read() {
    assert!(matches!(load_with("-help", &[("TLOG_K", "x")]), Ok(Invocation::Help)));
    assert!(matches!(load_with("-h", &[]), Ok(Invocation::Help)));
    assert!(matches!(load_with("--version", &[]), Ok(Invocation::Version)));
}

#[test]
fn the_sample_file_with_every_line_in_effect_is_taken() {
    let sample = super::report::sample_file();
    let active: Vec<String> = sample
        .lines()
        .filter(|line| !line.contains("priv-key:"))
        .map(|line| match line.strip_prefix("  # ") {
            Some(option) if option.split(' ').next().is_some_and(|word| word.ends_with(':')) => {
                format!("  {option}")
            }
            _ => line.to_owned(),
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yml");
    std::fs::write(&file, active.join("\n")).unwrap();
    let config = run(&format!("-config {}", file.display()), &[]);
    assert_eq!(config.flush_size, 25);
}

#[test]
fn no_value_of_any_option_is_a_panic() {
    let values = [
        "",
        " ",
        ",",
        "=",
        "@",
        ":",
        "0",
        "-1",
        "1",
        "18446744073709551616",
        "9999999999999999TiB",
        "x",
        "a:1",
        "a:0",
        "h:1@0,h:1@1",
        "N=a:1,N=b:2",
        "\u{e9}",
        "\u{0}",
        "true",
        "[::1]:1",
        "[:1",
        "1m",
        "99999999999999999999h",
    ];
    for spec in OPTIONS {
        for value in values {
            let arguments = ["-config=".into(), format!("-{}={value}", spec.name).into()];
            if let Err(error) = load(arguments, []) {
                assert!(!error.to_string().is_empty());
            }
            if let Err(error) = load_with("", &[(&spec.variable(), value)]) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

#[test]
fn a_key_in_the_process_list_is_warned_of() {
    let shown =
        |line: &str| run(line, &[]).notices.iter().any(|notice| notice.contains("process list"));
    assert!(shown("-priv-key abcdefghijklmnopqrstuvwxyz012345"));
    assert!(!shown("-priv-key @/run/key"));
    assert!(!shown(""));
}

#[test]
fn an_argument_that_is_no_text_is_a_wrong_command_line_and_a_variable_a_wrong_setting() {
    use std::os::unix::ffi::OsStringExt as _;
    let no_text = || OsString::from_vec(vec![b'-', 0xff]);
    let error = load([OsString::from("-config="), no_text()], []).unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().contains("argument 2")),
        (64, true),
        "{error}"
    );
    let error = load([OsString::from("-config=")], [("TLOG_K".into(), no_text())]).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("TLOG_K")), (78, true), "{error}");
}

#[test]
fn what_may_not_stand_in_the_file_is_refused_with_where_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yml");
    std::fs::write(&file, "tlogserver:\n  config: other.yml\n").unwrap();
    let error = load([format!("-config={}", file.display()).into()], []).unwrap_err();
    assert!(
        error.to_string().contains("config can be given as a flag or variable only"),
        "{error}"
    );
}
