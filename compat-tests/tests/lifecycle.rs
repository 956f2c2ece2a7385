//! Start, stop and refusal of the real process.

use anyhow::Result;
use compat_tests::{Server, run, temporary_dir};
use rustix::process::Signal;

#[test]
fn the_admin_port_answers_and_sigterm_ends_with_code_0() -> Result<()> {
    let dir = temporary_dir();
    let mut server = Server::spawn(dir.path(), &[])?;
    assert_eq!(server.admin("/livez")?.0, 200);
    let (_, body) = server.admin("/metrics")?;
    assert!(body.contains("tlog_build_info"), "{body}");
    assert_eq!(server.terminate()?.code(), Some(0));
    Ok(())
}

#[test]
fn a_second_process_on_the_same_data_ends_with_code_11_and_names_the_first() -> Result<()> {
    let dir = temporary_dir();
    let mut first = Server::spawn(dir.path(), &[])?;
    first.address("admin")?;
    let mut second = Server::spawn(dir.path(), &[])?;
    assert_eq!(second.wait_exit()?.code(), Some(11));
    let holder = format!("in use by process {}", first.id());
    assert!(second.log().iter().any(|line| line.contains(&holder)), "{:?}", second.log());
    Ok(())
}

#[test]
fn a_killed_server_starts_again_on_the_same_data_and_ports() -> Result<()> {
    let dir = temporary_dir();
    let mut server = Server::spawn(dir.path(), &[])?;
    let admin = server.address("admin")?;
    server.kill()?;
    server.respawn()?;
    assert_eq!(server.address("admin")?, admin);
    Ok(())
}

#[test]
fn sighup_is_answered_in_the_log_and_does_not_end_the_server() -> Result<()> {
    let dir = temporary_dir();
    let mut server = Server::spawn(dir.path(), &[])?;
    // Signals are taken over before any socket is bound.
    server.address("admin")?;
    server.signal(Signal::HUP)?;
    server.wait_line(" SIGHUP: reloading")?;
    assert_eq!(server.admin("/livez")?.0, 200);
    Ok(())
}

#[test]
fn the_log_is_json_when_asked_for() -> Result<()> {
    let dir = temporary_dir();
    let file = dir.path().join("log");
    let named = format!("-logfile={}", file.display());
    let mut server = Server::spawn(&dir.path().join("data"), &["-log-format=json", &named])?;
    let text = compat_tests::wait_until("the admin line", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        Ok(text.contains("listening admin").then_some(text))
    })?;
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
    assert_eq!(line["level"], "WARN", "{line}");
    assert_eq!(server.terminate()?.code(), Some(0));
    Ok(())
}

#[test]
fn refusals_end_with_their_codes() -> Result<()> {
    let code = |arguments: &[&str]| -> Result<Option<i32>> {
        Ok(Server::command()?.arg("-config=").args(arguments).output()?.status.code())
    };
    assert_eq!(code(&["-no-such-flag"])?, Some(64));
    assert_eq!(code(&["-k", "17"])?, Some(64));
    assert_eq!(code(&["-with-slave-sync"])?, Some(78));
    assert_eq!(code(&["-config", "/nowhere.yml"])?, Some(78));
    assert_eq!(code(&["-storage-addresses", "127.0.0.1:1"])?, Some(78));
    assert_eq!(code(&["-logfile", "/nowhere/log"])?, Some(78));
    assert_eq!(code(&["-healthcheck", "-admin-address", "127.0.0.1:1"])?, Some(1));
    Ok(())
}

#[test]
fn version_and_check_go_to_standard_output() -> Result<()> {
    let version = run(Server::command()?.arg("-version"), b"")?;
    assert!(String::from_utf8(version.stdout)?.starts_with("tlogserver "));
    let check =
        run(Server::command()?.args(["-config=", "-check", "-k", "3"]).env("TLOG_M", "1"), b"")?;
    let text = String::from_utf8(check.stdout)?;
    assert!(text.contains("# flag") && text.contains("# environment TLOG_M"), "{text}");
    assert!(!text.contains("12345678901234567890123456789012"));
    Ok(())
}

#[test]
fn the_health_check_says_what_readyz_says() -> Result<()> {
    let dir = temporary_dir();
    let mut server = Server::spawn(dir.path(), &[])?;
    let admin = server.address("admin")?;
    let (code, ready) = compat_tests::wait_until("an unchanging state", || {
        let (before, _) = server.admin("/readyz")?;
        let check = Server::command()?
            .args(["-config=", "-healthcheck", "-admin-address", &admin])
            .output()?;
        let (after, _) = server.admin("/readyz")?;
        Ok((before == after).then_some((check.status.code(), after == 200)))
    })?;
    assert_eq!(code, Some(i32::from(!ready)));
    Ok(())
}
