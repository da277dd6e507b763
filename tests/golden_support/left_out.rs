//! What is not tried, each with its reason. The test prints this list with the number of cases.

use serde_json::Value;

use super::argument::list;
use super::calls::plain_name;

/// Calls outside of the project, and options of calls: name, variant (empty for all), reason.
pub const CALLS: &[(&str, &str, &str)] = &[
    ("linalg.cholesky", "", "matrix factorisations are not in the op list"),
    ("linalg.qr", "", "matrix factorisations are not in the op list"),
    ("linalg.svd", "", "matrix factorisations are not in the op list"),
    ("norm", "nuc", "the nuclear norm needs singular values, and there is no svd"),
    ("conv1d", "", "convolutions are not in the op list"),
    (
        "multi_head_attention_forward",
        "",
        "the one case drops half of the attention weights by PyTorch's random generator",
    ),
];

/// Ops of the crate that no golden folder has values for; `tests/ops.rs` tries them.
pub const NOT_STORED: &[(&str, &str)] = &[
    ("cumprod", "no values are stored; its recurrence is that of cumsum and prod, which are"),
    ("dropout", "its mask is this crate's own random numbers"),
];

/// A refusal that the types make: sizes are unsigned here, so none can be left to be inferred.
const NO_INFERRED_SIZE: (&str, &str) = ("reshape with -1", "sizes are unsigned: the compiler refuses -1");

/// What a case is left out as, and why.
pub fn reason(case: &Value) -> Option<(String, &'static str)> {
    if let Some(call) = case["call"].as_str() {
        let variant = case["variant"].as_str().unwrap_or("");
        let row = CALLS
            .iter()
            .find(|(name, only, _)| *name == plain_name(call) && (only.is_empty() || *only == variant))?;
        let name = if row.1.is_empty() { row.0.to_string() } else { format!("{} ({})", row.0, row.1) };
        return Some((name, row.2));
    }
    let infers = case["op"] == "reshape" && list(&case["args"][1]).iter().any(|size| *size == -1);
    infers.then(|| (NO_INFERRED_SIZE.0.to_string(), NO_INFERRED_SIZE.1))
}
