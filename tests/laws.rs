//! The laws of MTLoRA, TriAdaptLoRA, SAN and IncreLoRA, under the names of `golden/brain/laws.json`, which
//! lists how exactly an independent implementation in f64 keeps each. What holds of every method is in
//! `methods.rs`. Read next: `law/mod.rs`.

mod common;
mod law;
mod tiny;

use common::{on_every_device, test_on};
use engrad::{Device, Tensor};
use serde_json::Value;

/// Laws of whole budgets, which `src/adapters/triadaptlora/growth_tests.rs` runs from `vectors.json`.
const ELSEWHERE: [&str; 3] = [
    "N = 72, 1 -> 8, delta 4, 20 checks, linear: 25, 40, 36, 20, 5, total 576",
    "the same, non-linear: 14 checks, total 584",
    "threshold table of section 6",
];

/// Each law, and how far from it one may be in f64.
fn laws() -> Vec<(String, f64)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/brain/laws.json");
    let text = std::fs::read_to_string(path).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let row = |row: &Value| (row[0].as_str().unwrap().to_string(), row[2].as_f64().unwrap());
    let mut laws: Vec<(String, f64)> = all["laws"].as_array().unwrap().iter().map(row).collect();
    laws.retain(|(name, _)| !ELSEWHERE.contains(&name.as_str()));
    laws
}

#[test]
fn what_is_not_a_number_keeps_no_law() {
    let [nan, one] = [f64::NAN, 1.0].map(|x| Tensor::full(x, [2], &Device::Reference));
    assert!(law::off(&nan, &one).is_nan() && law::off(&(&nan * &one), &nan).is_nan());
    assert!(law::largest(&[1.0, f64::NAN, 2.0]).is_nan() && law::largest(&[1.0, -2.0]) == 2.0);
}

on_every_device! {
    fn every_law_of_the_independent_implementation_holds(device) {
        let laws = laws();
        assert_eq!(laws.len() + ELSEWHERE.len(), 89);
        let mut broken = Vec::new();
        for (name, allowed) in laws {
            let law = law::named(&name).unwrap_or_else(|| panic!("no row for the law {name:?}"));
            let found = law(device);
            // What is exact in f64 is exact in f32, and numbers above 1 are counts.
            let allowed = if *device == Device::Reference || allowed == 0.0 || allowed > 1.0 { allowed } else { 1e-5 };
            if found.is_nan() || found > allowed {
                broken.push(format!("{name}: {found:e}, allowed {allowed:e}"));
            }
        }
        assert!(broken.is_empty(), "{broken:#?}");
    }
}
