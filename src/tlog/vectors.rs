//! The recorded bytes of the original, for tests.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::Value;

use crate::record::vdisk::{Block, Place};

/// A recorded stream in one direction.
pub struct Vector {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Decoded fields of each message, as recorded.
    pub messages: Vec<Value>,
}

static INDEX: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_slice(&std::fs::read(dir().join("index.json")).unwrap()).unwrap()
});

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("compat-tests/vectors/tlog")
}

/// The stream of this name, without `.bin`.
pub fn load(name: &str) -> Vector {
    let file = format!("{name}.bin");
    Vector {
        name: name.to_owned(),
        bytes: std::fs::read(dir().join(&file)).unwrap(),
        messages: INDEX[&file]["messages"].as_array().cloned().unwrap_or_default(),
    }
}

/// All streams, both directions.
pub fn all() -> Vec<Vector> {
    let mut names: Vec<String> = std::fs::read_dir(dir())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".bin").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert_eq!(names.len(), 74, "every stream on the wire is here");
    names.iter().map(|name| load(name)).collect()
}

/// Asserts that a decoded block has the recorded fields.
pub fn assert_block(block: &Block, recorded: &Value, name: &str) {
    assert_eq!(block.sequence, recorded["seq"].as_u64().unwrap(), "{name}");
    match block.place {
        Place::Bytes { offset, size } => {
            assert_eq!(offset, recorded["offset"].as_u64().unwrap(), "{name}");
            assert_eq!(size, recorded["size"].as_u64().unwrap(), "{name}");
        }
        Place::Index(index) => assert_eq!(index, recorded["index"].as_i64().unwrap(), "{name}"),
    }
    assert_eq!(u64::from(block.operation), recorded["op"].as_u64().unwrap(), "{name}");
    assert_eq!(block.timestamp, recorded["timestamp"].as_u64().unwrap(), "{name}");
    assert_eq!(block.data.len() as u64, recorded["data_len"].as_u64().unwrap(), "{name}");
    let hash: String = block.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, recorded["hash"].as_str().unwrap(), "{name}");
    let computed = blake2b_simd::Params::new().hash_length(32).hash(&block.data);
    let matches = computed.as_bytes() == block.hash;
    assert_eq!(matches, recorded["hash_matches_data"].as_bool().unwrap(), "{name}");
}

/// The recorded sequences of a response.
pub fn sequences(recorded: &Value) -> Vec<u64> {
    recorded["sequences"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()).collect()
}
