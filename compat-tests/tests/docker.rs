//! The files of docker/ as far as they can be checked without an engine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use compat_tests::{Server, run};
use serde_json::Value;

fn docker_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker")
}

/// The instructions of the Dockerfile, continued lines joined, comments left out.
fn instructions() -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(docker_dir().join("Dockerfile"))?;
    let plain: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = plain.join("\n").replace("\\\n", " ");
    let split = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.trim().to_owned()));
    Ok(joined.lines().filter_map(split).collect())
}

fn compose() -> Result<Value> {
    Ok(serde_saphyr::from_str(&std::fs::read_to_string(docker_dir().join("compose.yml"))?)?)
}

/// `NAME=value` words of the last stage.
fn environment() -> Result<Vec<(String, String)>> {
    let all = instructions()?.into_iter().filter(|(name, _)| name == "ENV");
    let words =
        all.flat_map(|(_, rest)| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let split = |word: String| word.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()));
    Ok(words.filter_map(split).collect())
}

#[test]
fn every_instruction_of_the_dockerfile_is_one() -> Result<()> {
    const KNOWN: &[&str] = &[
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "VOLUME",
        "ENV",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
    ];
    for (name, rest) in instructions()? {
        assert!(KNOWN.contains(&name.as_str()), "{name} {rest}");
    }
    Ok(())
}

#[test]
fn the_image_keeps_the_promises_of_a_container() -> Result<()> {
    let all = instructions()?;
    let rest_of =
        |name: &str| all.iter().rfind(|(known, _)| known == name).map(|(_, rest)| rest.as_str());
    assert_eq!(
        all.iter().filter(|(name, _)| name == "FROM").count(),
        2,
        "build and run are two stages"
    );
    assert_eq!(rest_of("STOPSIGNAL"), Some("SIGTERM"));
    assert_eq!(rest_of("VOLUME"), Some("/data"));
    assert_eq!(rest_of("ENTRYPOINT"), Some("[\"tlogserver\"]"));
    let user = rest_of("USER").context("runs as root")?;
    assert!(!user.starts_with('0') && !user.starts_with("root"), "{user}");
    let check = rest_of("HEALTHCHECK").context("no health check")?;
    assert!(check.contains("[\"tlogserver\", \"-healthcheck\"]"), "{check}");
    // The image's compiler is new enough for the package.
    let manifest = std::fs::read_to_string(docker_dir().join("../Cargo.toml"))?;
    let wanted = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let wanted = wanted.context("a rust-version")?.trim_matches('"');
    assert!(all[0].1.starts_with(&format!("rust:{wanted}")), "{} is not {wanted}", all[0].1);
    Ok(())
}

#[test]
fn the_server_takes_the_environment_of_image_and_compose_file() -> Result<()> {
    let compose = compose()?;
    let mut command = Server::command()?;
    command.args(["-config=", "-check"]).envs(environment()?);
    let variables = compose["services"]["tlog"]["environment"].as_object().context("variables")?;
    for (name, value) in variables {
        command.env(name, value.as_str().context("a text")?);
    }
    let output = run(&mut command, b"")?;
    let text = String::from_utf8(output.stdout)?;
    for (name, _) in environment()? {
        assert!(text.contains(&format!("# environment {name}")), "{name} has no effect:\n{text}");
    }
    assert!(!text.contains("is ignored"), "{text}");
    Ok(())
}

#[test]
fn the_compose_file_has_a_redis_for_every_shard() -> Result<()> {
    let compose = compose()?;
    let services = compose["services"].as_object().context("services")?;
    let variables = &services["tlog"]["environment"];
    let addresses = variables["TLOG_STORAGE_ADDRESSES"].as_str().context("addresses")?;
    let number =
        |name: &str| -> Result<usize> { Ok(variables[name].as_str().context("text")?.parse()?) };
    let hosts: Vec<&str> = addresses.split(',').filter_map(|one| one.split(':').next()).collect();
    assert_eq!(hosts.len(), number("TLOG_K")? + number("TLOG_M")?);
    for host in hosts {
        let redis = services.get(host).with_context(|| format!("no service {host}"))?;
        let command = redis["command"].to_string();
        assert!(
            command.contains("\"noeviction\"") && command.contains("\"--appendonly\",\"yes\""),
            "{command}"
        );
        assert_eq!(redis["volumes"][0], format!("{host}:/data"));
        assert!(compose["volumes"].as_object().context("volumes")?.contains_key(host));
        assert!(services["tlog"]["depends_on"][host].is_object(), "{host}");
    }
    Ok(())
}

#[test]
fn published_ports_are_exposed_and_on_this_machine_only() -> Result<()> {
    let all = instructions()?;
    let exposed = all.iter().find(|(name, _)| name == "EXPOSE").map(|(_, rest)| rest.clone());
    let exposed = exposed.context("EXPOSE")?;
    for port in compose()?["services"]["tlog"]["ports"].as_array().context("ports")? {
        let parts: Vec<&str> = port.as_str().context("a text")?.split(':').collect();
        assert_eq!((parts[0], parts[1]), ("127.0.0.1", parts[2]), "{port}");
        assert!(exposed.split(' ').any(|known| known == parts[2]), "{port} is not in EXPOSE");
    }
    Ok(())
}
