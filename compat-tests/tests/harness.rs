//! The harness itself: what other tests stand on.

use anyhow::Result;
use compat_tests::{Redis, Tool, run, temporary_dir};

#[test]
fn a_killed_redis_comes_back_with_what_it_had() -> Result<()> {
    let dir = temporary_dir();
    let mut servers = Redis::start_many(dir.path(), 2)?;
    assert_ne!(servers[0].address(), servers[1].address());
    let redis = &mut servers[0];
    assert!(redis.ask("CONFIG GET maxmemory-policy")?.contains("noeviction"));
    assert_eq!(redis.ask("SET a 1")?, "+OK\r\n");
    redis.pause()?;
    assert!(redis.ask("GET a").is_err());
    redis.resume()?;
    redis.kill()?;
    redis.restart()?;
    assert_eq!(redis.ask("GET a")?, "$1\r\n1\r\n");
    Ok(())
}

#[test]
fn a_tool_is_run_with_its_input_and_fails_with_its_words() -> Result<()> {
    let output = run(Tool::Kcat.command()?.arg("-V"), b"")?;
    assert!(String::from_utf8_lossy(&output.stdout).contains("librdkafka"));
    let error =
        run(std::process::Command::new("sh").args(["-c", "cat; exit 3"]), b"words").unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("exit status: 3") && text.contains("words"), "{text}");
    Ok(())
}
