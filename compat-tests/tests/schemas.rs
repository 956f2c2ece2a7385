//! Generated code is what its schema gives: a schema changed alone, or generated code changed by hand, would be stored or
//! sent otherwise than it is written down.
//!
//! The compiler `capnp` is the system's; the code is made in here by the crate `capnpc`, so its version is the lock file's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use capnpc::codegen::CodeGenerationCommand;
use compat_tests::{run, temporary_dir};

/// Folder of a schema, its name, and the code that is made of it.
const SCHEMAS: [(&str, &str, &str); 2] = [
    ("src/tier/schema", "tier", "src/tier/generated.rs"),
    ("src/tlog/schema", "tlog", "src/tlog/protocol/generated.rs"),
];
/// The one line that tells the system's compiler, which has no part in the code.
const COMPILER: &str = "// capnp binary version: ";

fn has_compiler() -> bool {
    Command::new("capnp").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// What the schema text `folder/name.capnp` gives.
fn generate(folder: &Path, name: &str) -> Result<String> {
    let mut command = Command::new("capnp");
    command.args(["compile", "-o-"]).arg(format!("--src-prefix={}", folder.display()));
    let request = run(command.arg(folder.join(format!("{name}.capnp"))), b"")?.stdout;
    let dir = temporary_dir();
    CodeGenerationCommand::new().output_directory(dir.path()).run(&request[..])?;
    Ok(std::fs::read_to_string(dir.path().join(format!("{name}_capnp.rs")))?)
}

/// Compares line by line; names the first that differs.
fn compare(kept: &str, made: &str) -> Result<()> {
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with(COMPILER)).map(str::to_owned).collect()
    };
    let (kept, made) = (lines(kept), lines(made));
    for (number, (kept, made)) in kept.iter().zip(&made).enumerate() {
        ensure!(kept == made, "line {}: `{kept}`, the schema gives `{made}`", number + 1);
    }
    ensure!(kept.len() == made.len(), "{} lines, the schema gives {}", kept.len(), made.len());
    Ok(())
}

#[test]
fn generated_code_is_what_its_schema_gives() -> Result<()> {
    if !has_compiler() {
        println!("skipped: `capnp` is not installed; compat-tests/run installs it");
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    for (folder, name, code) in SCHEMAS {
        let kept = std::fs::read_to_string(root.join(code))?;
        let made = generate(&root.join(folder), name)?;
        compare(&kept, &made).with_context(|| {
            format!("{code} is not made of {name}.capnp; see the schema's head")
        })?;
    }
    Ok(())
}

#[test]
fn a_schema_changed_in_one_field_is_told_from_the_code() -> Result<()> {
    if !has_compiler() {
        println!("skipped: `capnp` is not installed; compat-tests/run installs it");
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    for (folder, name, code) in SCHEMAS {
        let schema = std::fs::read_to_string(root.join(folder).join(format!("{name}.capnp")))?;
        let changed = schema.replacen(":UInt64;", ":Int64;", 1);
        ensure!(changed != schema, "{name}.capnp has no field of that type");
        let dir = temporary_dir();
        std::fs::write(dir.path().join(format!("{name}.capnp")), changed)?;
        let kept = std::fs::read_to_string(root.join(code))?;
        let made = generate(dir.path(), name)?;
        ensure!(compare(&kept, &made).is_err(), "the change of {name}.capnp goes unseen");
    }
    Ok(())
}
