//! Files that lie: every one is read or refused with an error, and none brings a panic.
//!
//! `tests/golden/safetensors` holds good and malformed files with what the format's own reader says
//! of them.

mod tiny;

use std::path::Path;

use engrad::adapters::{self, Lora};
use engrad::nn::{Encoder, EncoderConfig, files};
use engrad::{Device, Error};
use proptest::prelude::*;
use serde_json::{Value, json};

const FOLDER: &str = "tests/golden/safetensors";

#[test]
fn good_files_are_read_and_malformed_ones_refused() {
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(format!("{FOLDER}/manifest.json")).unwrap()).unwrap();
    let rows = manifest["files"].as_array().unwrap();
    assert_eq!(rows.len(), 28);
    for row in rows {
        let name = row["file"].as_str().unwrap();
        let found = files::read(Path::new(FOLDER).join(name), &Device::Cpu);
        match (found, row["accepts"].as_bool().unwrap()) {
            (Err(error), false) => {
                let error = error.to_string();
                assert!(error.contains(name) && error.contains("not a valid safetensors file"), "{error}");
            }
            (Ok(_), false) => panic!("{name} is malformed, but was read"),
            (Err(error), true) => assert!(name.starts_with("either_"), "{error}"),
            (Ok(contents), true) => {
                let expected = row["tensors"].as_object().unwrap();
                let is_float = |tensor: &&Value| tensor["dtype"].as_str().unwrap().contains("float");
                assert_eq!(contents.tensors.len(), expected.values().filter(is_float).count(), "{name}");
                for (key, tensor) in &contents.tensors {
                    assert_eq!(json!(tensor.sizes()), expected[key]["shape"], "{name}");
                    assert_eq!(json!(tensor.to_f64()), expected[key]["values"], "{name}");
                }
            }
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = files::read("/no/such/file", &Device::Cpu).err().unwrap();
    assert!(matches!(error, Error::Io { .. }));
    assert!(error.to_string().contains("/no/such/file"));
    assert!(matches!(files::read("/", &Device::Cpu), Err(Error::Io { .. })), "a folder is no file");
}

/// A file of this header and as many bytes of data.
fn lying(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

/// What reading these bytes gives.
fn read(bytes: &[u8]) -> Result<files::Contents, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    files::read(file.path(), &Device::Cpu)
}

#[test]
fn headers_that_lie_are_refused() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let large = u64::MAX;
    for (header, data) in [
        (one("F32", "[4611686018427387905]", "[0,4]"), 4),
        (one("F32", "[4294967296,4294967296]", "[0,0]"), 0),
        (one("F32", "[0,4611686018427387904,4611686018427387904]", "[0,0]"), 0),
        (one("F32", "[9223372036854775808,0]", "[0,0]"), 0),
        (one("F32", &format!("[{large},{large},0]"), "[0,0]"), 0),
        (one("F32", "[1]", &format!("[{},{large}]", large - 3)), 4),
        (one("F32", "[1]", "[4,8]"), 8),
        (one("F32", "[1]", "[4,0]"), 4),
        (one("F32", "[2]", "[0,4]"), 4),
        (one("F8_E4M3", "[4]", "[0,4]"), 4),
        (one("C64", "[1]", "[0,8]"), 8),
        (one("F32", "[1e3]", "[0,4000]"), 4000),
        (one("F32", "{}", "[0,4]"), 4),
        ("{\"a\":".repeat(200), 0),
        ("[".repeat(100_000), 0),
        ("null".into(), 0),
        (String::new(), 0),
    ] {
        let found = read(&lying(&header, data));
        assert!(matches!(found, Err(Error::Format { .. })), "{}", &header[..header.len().min(120)]);
    }
    for length in [u64::MAX, 1 << 63, 1 << 40, 100_000_001, 9] {
        let mut bytes = lying("{}", 0);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert!(matches!(read(&bytes), Err(Error::Format { .. })), "a header of {length} bytes");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = std::fs::read(format!("{FOLDER}/ok_two_out_of_order.safetensors")).unwrap();
    assert!(read(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(matches!(read(&whole[..length]), Err(Error::Format { .. })), "cut to {length} bytes");
    }
}

/// A saved model, and a saved adapter of it.
fn saved() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let encoder = tiny::classifier(&tiny::config(), &Device::Cpu).encoder;
    files::save(folder.path().join("model.safetensors"), &encoder).unwrap();
    let config = serde_json::to_string(&tiny::config()).unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    adapters::attach(&encoder, "*.query", Lora::new(2)).unwrap().save(folder.path()).unwrap();
    folder
}

fn load(folder: &Path) -> Result<(), Error> {
    let encoder = Encoder::from_directory(folder, &Device::Cpu)?;
    adapters::load(&encoder, folder).map(drop)
}

/// Changes a file of a good folder, and loads all of it.
fn with_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let earlier = std::fs::read(folder.join(name)).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
    let found = load(folder);
    std::fs::write(folder.join(name), earlier).unwrap();
    found
}

fn mutated(bytes: &[u8], changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, value) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    bytes
}

/// Fewer than `limit` bytes that are exchanged: where, and for what.
fn changes(limit: usize) -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..limit)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_bytes_never_bring_a_panic(changes in changes(6)) {
        for name in ["ok_two_out_of_order", "ok_metadata", "ok_bf16", "ok_bool_i64", "ok_empty_tensor"] {
            let whole = std::fs::read(format!("{FOLDER}/{name}.safetensors")).unwrap();
            let _ = read(&mutated(&whole, &changes));
        }
    }

    #[test]
    fn garbage_never_brings_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), header in "\\PC{0,40}") {
        let _ = read(&bytes);
        let _ = read(&lying(&header, 8));
    }
}

proptest! {
    // Each case builds models.
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn models_and_adapters_of_changed_files_load_or_are_refused(changes in changes(4)) {
        let folder = saved();
        load(folder.path()).unwrap();
        for name in ["config.json", "adapter_config.json", "adapter_model.safetensors", "model.safetensors"] {
            let whole = std::fs::read(folder.path().join(name)).unwrap();
            let _ = with_file(folder.path(), name, &mutated(&whole, &changes));
        }
    }

    #[test]
    fn configurations_of_any_json_load_or_are_refused(which in any::<prop::sample::Index>(), value in json_value()) {
        let folder = saved();
        for name in ["config.json", "adapter_config.json"] {
            let mut config: Value = serde_json::from_slice(&std::fs::read(folder.path().join(name)).unwrap()).unwrap();
            let entries = config.as_object_mut().unwrap();
            let key = entries.keys().nth(which.index(entries.len())).unwrap().clone();
            entries.insert(key, value.clone());
            let _ = with_file(folder.path(), name, config.to_string().as_bytes());
            let _ = with_file(folder.path(), name, value.to_string().as_bytes());
        }
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0u64..100_000).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

#[test]
fn a_good_adapter_on_another_model_is_refused_with_every_name() {
    let folder = saved();
    let wider = EncoderConfig { hidden_size: 4, ..tiny::config() };
    let model = tiny::classifier(&wider, &Device::Cpu).encoder;
    let error = adapters::load(&model, folder.path()).err().unwrap().to_string();
    for part in
        ["lora_A.weight is [2, 8] in the file, [2, 4] in the model", "lora_B.weight is [8, 2] in the file"]
    {
        assert!(error.contains(part), "{error}");
    }
    std::fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
    assert!(matches!(load(folder.path()), Err(Error::Io { .. })));
}
