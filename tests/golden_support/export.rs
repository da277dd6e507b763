//! Chooses the part of a golden folder that is committed, so that a clone can test itself.
//!
//! `ENGRAD_GOLDEN_EXPORT=DIR` writes it: of every call and variant a few small cases, strided and
//! empty ones and those with a note first, in the format they were read in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Cases of one call and variant, and the most bytes one of them may take.
const EACH: usize = 6;
const LARGEST: usize = 6_000;
const PROGRAMS: usize = 25;

/// Writes the chosen part of `root` to `target`.
pub fn export(root: &Path, target: &Path) -> Result<(), Box<dyn std::error::Error>> {
    for name in super::folder::file_names(root) {
        let mut json: Value = serde_json::from_slice(&std::fs::read(root.join(&name))?)?;
        let path = target.join(&name);
        std::fs::create_dir_all(path.parent().ok_or("a file lies in a folder")?)?;
        if let Some(beside) = json["tensors"].as_str() {
            let bytes = std::fs::read(root.join(&name).with_file_name(beside))?;
            let stored = SafeTensors::deserialize(&bytes)?;
            let views: BTreeMap<String, _> = stored.tensors().into_iter().collect();
            let cases: Vec<Value> = json["cases"].as_array().into_iter().flatten().cloned().collect();
            let sizes: HashMap<&str, usize> =
                views.iter().map(|(key, view)| (key.as_str(), view.data().len())).collect();
            let chosen = choose(&cases, &sizes);
            let mut keys = BTreeSet::new();
            chosen.iter().for_each(|case| collect_keys(case, &sizes, &mut keys));
            let kept = views.iter().filter(|(key, _)| keys.contains(key.as_str()));
            std::fs::write(path.with_file_name(beside), safetensors::serialize(kept, None)?)?;
            json["cases"] = json!(chosen);
        }
        std::fs::write(&path, serde_json::to_string(&json)? + "\n")?;
    }
    Ok(())
}

fn choose(cases: &[Value], sizes: &HashMap<&str, usize>) -> Vec<Value> {
    let weight = |case: &Value| {
        let mut keys = BTreeSet::new();
        collect_keys(case, sizes, &mut keys);
        keys.iter().map(|key| sizes[key.as_str()]).sum::<usize>()
    };
    let mut groups: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (at, case) in cases.iter().enumerate() {
        let group = (case["call"].to_string(), case["variant"].to_string());
        groups.entry(group).or_default().push(at);
    }
    let mut chosen: BTreeSet<usize> = BTreeSet::new();
    for mut group in groups.into_values() {
        // The telling ones first, then the small ones; one case is kept however large it is.
        let telling = |case: &Value| {
            case.get("note").is_some()
                || case["noncontiguous"] == true
                || case["outputs"][0]["shape"].as_array().is_some_and(|sizes| sizes.contains(&json!(0)))
        };
        group.sort_by_key(|&at| (weight(&cases[at]) > LARGEST, !telling(&cases[at]), weight(&cases[at])));
        let each = if cases[0].get("steps").is_some() { PROGRAMS } else { EACH };
        let small = group.iter().take_while(|&&at| weight(&cases[at]) <= LARGEST || each == PROGRAMS);
        let count = small.count().clamp(1, each);
        chosen.extend(&group[..count]);
    }
    chosen.into_iter().map(|at| cases[at].clone()).collect()
}

/// Every text in a case that is the name of a tensor.
fn collect_keys(value: &Value, sizes: &HashMap<&str, usize>, keys: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if sizes.contains_key(text.as_str()) => {
            keys.insert(text.clone());
        }
        Value::Array(parts) => parts.iter().for_each(|part| collect_keys(part, sizes, keys)),
        Value::Object(fields) => fields.values().for_each(|part| collect_keys(part, sizes, keys)),
        _ => {}
    }
}
