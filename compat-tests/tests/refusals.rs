//! What the server refuses to start with: its exit code, and one line that names the cure.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use compat_tests::vdisk::block;
use compat_tests::{Redis, Server, TlogSocket, temporary_dir, wait_until};
use tlog::tlog::protocol::{ClientMessage, Status};

/// A key of its own, as somebody would type it.
const KEY: &str = "-priv-key=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_KEY: &str =
    "-priv-key=ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

const CONFIGURATION: i32 = 78;
const WRONG_KEY: i32 = 12;
const LOCKED: i32 = 11;
const USAGE: i32 = 64;

/// The server ends with `code` and one line of complaint, which has all of `words`. Gives the line.
fn refused(data_dir: &Path, options: &[&str], code: i32, words: &[&str]) -> Result<String> {
    let mut server = Server::spawn(data_dir, options)?;
    let status = server.wait_exit()?;
    // What it wrote may still be on its way here.
    let complaints = wait_until("a complaint", || {
        let is_complaint = |line: &String| {
            line.contains(" ERROR ")
                || (line.starts_with("tlogserver: ") && !line.contains("-help lists"))
        };
        let found: Vec<String> = server.log().into_iter().filter(is_complaint).collect();
        Ok((!found.is_empty()).then_some(found))
    })
    .with_context(|| format!("{status}: {}", server.log().join("\n")))?;
    let log = server.log().join("\n");
    ensure!(status.code() == Some(code), "{status} instead of {code}:\n{log}");
    ensure!(complaints.len() == 1, "{} complaints:\n{log}", complaints.len());
    for word in words {
        ensure!(complaints[0].contains(word), "`{word}` is not in: {}", complaints[0]);
    }
    Ok(complaints[0].clone())
}

fn addresses(servers: &[Redis]) -> String {
    let all: Vec<String> = servers.iter().map(Redis::address).collect();
    format!("-storage-addresses={}", all.join(","))
}

/// Starts a server on these, has a vdisk of one flushed block made, and stops it.
fn write_something(data_dir: &Path, options: &[&str]) -> Result<()> {
    let mut server = Server::start(data_dir, options)?;
    let (mut client, _) = TlogSocket::attach(&server.address("tlog")?, "some-disk")?;
    client.send(&block(1, 0, &[7; 4096]))?;
    client.send(&ClientMessage::ForceFlush(1))?;
    while client.response()?.status != Status::Flushed {}
    ensure!(server.terminate()?.success());
    Ok(())
}

/// The admin port's list of findings once it has all of `words`.
fn wait_readyz(server: &mut Server, words: &[&str]) -> Result<(u16, String)> {
    wait_until(&format!("{words:?} at /readyz"), || {
        let (status, body) = server.admin("/readyz")?;
        Ok(words.iter().all(|word| body.contains(word)).then_some((status, body)))
    })
}

#[test]
fn the_key_that_everybody_knows_is_refused_with_redis_and_taken_with_dev() -> Result<()> {
    let dir = temporary_dir();
    let servers = Redis::start_many(dir.path(), 6)?;
    let (data_dir, given) = (dir.path().join("data"), addresses(&servers));
    let cure = ["default key is public", "chmod 600 tlog.key", "-priv-key @tlog.key"];
    refused(&data_dir, &[&given], CONFIGURATION, &cure)?;
    // Given by hand it is as public.
    let by_hand = "-priv-key=12345678901234567890123456789012";
    refused(&data_dir, &[&given, by_hand], CONFIGURATION, &cure)?;

    let mut server = Server::start(&data_dir, &[&given, "-dev"])?;
    let warned = |line: &String| line.contains(" WARN ") && line.contains("default key is public");
    ensure!(server.log().iter().any(warned), "{:?}", server.log());
    let (status, body) = wait_readyz(&mut server, &["trivial key"])?;
    ensure!(status == 200, "{status} {body}");
    Ok(())
}

#[test]
fn the_default_key_in_other_forms_is_as_public() -> Result<()> {
    let dir = temporary_dir();
    let servers = Redis::start_many(dir.path(), 6)?;
    let given = addresses(&servers);
    let hex: String =
        b"12345678901234567890123456789012".iter().map(|b| format!("{b:02x}")).collect();
    let file = dir.path().join("default.key");
    std::fs::write(&file, "12345678901234567890123456789012\n")?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    for key in [format!("-priv-key={hex}"), format!("-priv-key=@{}", file.display())] {
        refused(
            &dir.path().join("data"),
            &[&given, &key],
            CONFIGURATION,
            &["is public", "-priv-key @"],
        )?;
    }
    Ok(())
}

#[test]
fn in_directories_the_default_key_in_a_file_is_warned_of_without_a_word_of_redis() -> Result<()> {
    let dir = temporary_dir();
    let file = dir.path().join("default.key");
    std::fs::write(&file, "12345678901234567890123456789012\n")?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let key = format!("-priv-key=@{}", file.display());
    let server = Server::start(&dir.path().join("data"), &[&key])?;
    let log = server.log();
    let warned: Vec<&String> =
        log.iter().filter(|line| line.contains(" WARN ") && line.contains("public")).collect();
    ensure!(warned.len() == 1 && !warned[0].contains("redis"), "{log:?}");
    Ok(())
}

#[test]
fn another_key_than_the_shards_were_written_with_ends_with_code_12() -> Result<()> {
    let dir = temporary_dir();
    let servers = Redis::start_many(dir.path(), 6)?;
    let (data_dir, given) = (dir.path().join("data"), addresses(&servers));
    write_something(&data_dir, &[&given, KEY])?;
    let cure = ["not the key", "-priv-key"];
    refused(&dir.path().join("new"), &[&given, OTHER_KEY], WRONG_KEY, &cure)?;
    refused(&data_dir, &[&given, OTHER_KEY], WRONG_KEY, &cure)?;
    // Neither attempt has spoilt anything.
    Server::start(&data_dir, &[&given, KEY])?;
    Ok(())
}

#[test]
fn another_key_is_refused_also_while_no_shard_server_answers() -> Result<()> {
    let dir = temporary_dir();
    let mut servers = Redis::start_many(dir.path(), 6)?;
    let (data_dir, given) = (dir.path().join("data"), addresses(&servers));
    write_something(&data_dir, &[&given, KEY])?;
    servers.iter_mut().try_for_each(Redis::kill)?;
    refused(&data_dir, &[&given, OTHER_KEY], WRONG_KEY, &["not the key", "-priv-key"])?;
    Ok(())
}

#[test]
fn a_key_that_is_none_is_refused() -> Result<()> {
    let dir = temporary_dir();
    let data_dir = dir.path().join("data");
    let file = |name: &str, content: &str, mode: u32| -> Result<String> {
        let path: PathBuf = dir.path().join(name);
        std::fs::write(&path, content)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        Ok(format!("-priv-key=@{}", path.display()))
    };
    let good = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
    let check = |key: &str, words: &[&str]| refused(&data_dir, &[key], CONFIGURATION, words);
    check("-priv-key=short", &["5 bytes", "exactly 32 bytes, 64 hexadecimal digits, or @"])?;
    check(&format!("-priv-key={}", "x".repeat(32)), &["equal", "openssl rand -hex 32"])?;
    check(&format!("-priv-key={}", "00".repeat(32)), &["equal", "openssl rand -hex 32"])?;
    check("-priv-key=@/no/such/file", &["/no/such/file", "-priv-key @"])?;
    check(&file("short", "abc\n", 0o600)?, &["exactly 32 bytes"])?;
    check(&file("open", good, 0o666)?, &["may be changed by others", "chmod 600"])?;
    check(&file("group", good, 0o620)?, &["may be changed by others", "chmod 600"])?;
    let line = check("-priv-key=do-not-show-this", &[])?;
    ensure!(!line.contains("do-not-show"), "{line}");
    Server::start(&data_dir, &[&file("good", good, 0o600)?])?;
    Ok(())
}

#[test]
fn a_redis_that_evicts_or_is_part_of_a_cluster_is_refused() -> Result<()> {
    let dir = temporary_dir();
    let mut servers = Redis::start_many(dir.path(), 6)?;
    let (data_dir, given) = (dir.path().join("data"), addresses(&servers));
    let policy = servers[3].ask("CONFIG SET maxmemory-policy allkeys-lru")?;
    ensure!(policy.starts_with("+OK"), "{policy}");
    let port = servers[3].port().to_string();
    let words = [
        "allkeys-lru",
        "redis-cli -h 127.0.0.1 -p",
        &port,
        "config set maxmemory-policy noeviction",
    ];
    refused(&data_dir, &[&given, KEY], CONFIGURATION, &words)?;
    // The cure cures.
    servers[3].ask("CONFIG SET maxmemory-policy noeviction")?;
    write_something(&data_dir, &[&given, KEY])?;

    let clustered = Redis::start_with(&dir.path().join("node"), &["--cluster-enabled", "yes"])?;
    servers[2] = clustered;
    let words = ["redis cluster", "--cluster-enabled no", &servers[2].address()];
    refused(&dir.path().join("new"), &[&addresses(&servers), KEY], CONFIGURATION, &words)?;
    refused(&data_dir, &[&addresses(&servers), KEY], CONFIGURATION, &words)?;
    Ok(())
}

#[test]
fn two_names_of_one_server_are_refused() -> Result<()> {
    let dir = temporary_dir();
    let servers = Redis::start_many(dir.path(), 5)?;
    let (data_dir, given) = (dir.path().join("data"), addresses(&servers));
    let port = servers[0].port();
    let by_name = format!("{given},localhost:{port}");
    let words = ["the same server as", "localhost", "redis-server --port"];
    refused(&data_dir, &[&by_name, KEY], CONFIGURATION, &words)?;
    let by_database = format!("{given},127.0.0.1:{port}@1");
    let words = ["more than once", "servers of their own", &format!("127.0.0.1:{port}")];
    refused(&data_dir, &[&by_database, KEY], CONFIGURATION, &words)?;
    let twice = format!("{given},127.0.0.1:{port}");
    let mut server = Server::spawn(&data_dir, &[&twice, KEY])?;
    ensure!(server.wait_exit()?.code() == Some(CONFIGURATION));

    let mut server = Server::start(&data_dir, &[&by_name, KEY, "-dev"])?;
    wait_readyz(&mut server, &["the same server as", "localhost"])?;
    Ok(())
}

#[test]
fn too_few_servers_are_answered_with_a_list_to_paste() -> Result<()> {
    let dir = temporary_dir();
    let servers = Redis::start_many(dir.path(), 2)?;
    let (data_dir, given) = (dir.path().join("data"), addresses(&servers));
    let port = servers[1].port();
    let guess: Vec<String> =
        (1..=4).map(|i| format!("127.0.0.1:{}", u32::from(port) + i)).collect();
    let list = format!(
        "-storage-addresses {},{}",
        given.replace("-storage-addresses=", ""),
        guess.join(",")
    );
    refused(&data_dir, &[&given, KEY], CONFIGURATION, &["names 2 servers", "k+m = 6", &list])?;
    let mut server = Server::start(&data_dir, &[&given, KEY, "-dev"])?;
    wait_readyz(&mut server, &["enough_servers"])?;
    Ok(())
}

#[test]
fn servers_of_another_cluster_are_refused_and_a_single_one_is_not_used() -> Result<()> {
    let dir = temporary_dir();
    let ours = Redis::start_many(&dir.path().join("ours"), 6)?;
    let mut theirs = Redis::start_many(&dir.path().join("theirs"), 6)?;
    let (data_dir, foreign) = (dir.path().join("data"), dir.path().join("foreign"));
    write_something(&data_dir, &[&addresses(&ours), KEY])?;
    write_something(&foreign, &[&addresses(&theirs), KEY])?;
    let words = ["belong to cluster", "name the servers of this cluster", "empty data directory"];
    refused(&data_dir, &[&addresses(&theirs), KEY], CONFIGURATION, &words)?;

    // One stranger among five of ours.
    let stranger = theirs.swap_remove(1);
    let strange = stranger.address();
    let mut mixed = ours;
    mixed[4] = stranger;
    let before = mixed[4].ask("DBSIZE")?;
    for path in [data_dir, dir.path().join("new")] {
        let mut server = Server::start(&path, &[&addresses(&mixed), KEY])?;
        let words = [strange.as_str(), "belongs to cluster", "name a server of this cluster"];
        wait_readyz(&mut server, &words)?;
        let (mut client, flushed) = TlogSocket::attach(&server.address("tlog")?, "some-disk")?;
        client.send(&block(flushed + 1, 1, &[8; 4096]))?;
        ensure!(client.response()?.status == Status::Received);
        server.kill()?;
    }
    ensure!(mixed[4].ask("DBSIZE")? == before, "something was written to a stranger");
    Ok(())
}

#[test]
fn a_data_directory_is_held_by_one_process() -> Result<()> {
    let dir = temporary_dir();
    let first = Server::start(dir.path(), &[])?;
    let holder = format!("in use by process {};", first.id());
    refused(dir.path(), &[], LOCKED, &[&holder, "another -data-dir"])?;
    Ok(())
}

#[test]
fn a_data_directory_of_a_newer_format_is_refused() -> Result<()> {
    let dir = temporary_dir();
    write_something(dir.path(), &[])?;
    let path = dir.path().join("format.json");
    let text = std::fs::read_to_string(&path)?;
    ensure!(text.contains("\"format\": 1"), "{text}");
    std::fs::write(&path, text.replace("\"format\": 1", "\"format\": 2"))?;
    let words = ["has format 2", "start the release that wrote it"];
    refused(dir.path(), &[], CONFIGURATION, &words)?;
    Ok(())
}

#[test]
fn flags_of_later_features_are_refused_by_name_and_unknown_ones_with_the_nearest() -> Result<()> {
    let dir = temporary_dir();
    let data_dir = dir.path().join("data");
    for (flag, name) in [
        ("-with-slave-sync", "with-slave-sync"),
        ("-profile-address=localhost:6060", "profile-address"),
        ("-accept-address=10.0.0.1", "accept-address"),
        ("-wait-listen-addr=localhost:1", "wait-listen-addr"),
        ("-wait-connect-addr=localhost:1", "wait-connect-addr"),
        ("-id=other", "id is"),
        ("-ldlm-address=localhost:1", "ldlm-address"),
    ] {
        refused(&data_dir, &[flag], CONFIGURATION, &[name, "not built yet", "leave it out"])?;
    }
    refused(&data_dir, &["-flush-siez=3"], USAGE, &["unknown flag", "did you mean -flush-size?"])?;
    refused(&data_dir, &["-k=17"], USAGE, &["k is `17`", "from 1 to 16"])?;
    ensure!(!data_dir.exists(), "a refused command line leaves nothing behind");
    Ok(())
}

#[test]
fn a_config_file_is_taken_whole_or_not_at_all() -> Result<()> {
    let dir = temporary_dir();
    let file = dir.path().join("server.yml");
    let option = format!("-config={}", file.display());
    let check = |text: &str, words: &[&str]| -> Result<String> {
        std::fs::write(&file, text)?;
        refused(&dir.path().join("data"), &[&option], CONFIGURATION, words)
    };
    let words = ["server.yml", "unknown key `tlogserver.flush_size`", "tlogserver.flush-size?"];
    check("tlogserver:\n  flush_size: 3\n", &words)?;
    check("vdisks: {}\n", &["section `vdisks`", "remove the section"])?;
    check("tlogservers: {}\n", &["unknown section", "did you mean tlogserver?"])?;
    check("tlogserver: [\n", &["server.yml"])?;
    Ok(())
}
