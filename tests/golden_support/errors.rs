//! Calls that PyTorch refuses must end in a refusal here too, never in numbers.
//!
//! A refusal is one of two: a panic worded by `error::refuse` (an op's name, a colon, and the sizes
//! of an operand or the axis that does not exist), or an `Error` about ids, which the harness panics
//! with. Anything else, an index out of bounds inside of a kernel for one, is a failure.

use std::panic::{AssertUnwindSafe, catch_unwind};

use engrad::{Device, Tensor};
use serde_json::Value;

use super::argument::{Argument, Call, Integers, list, text};
use super::calls;

/// **Errors** when the call gives a result, or ends without saying what does not fit.
pub fn run(case: &Value, device: &Device) -> Result<(), String> {
    let op = text(&case["op"]);
    let mut sizes = Vec::new();
    let mut arguments =
        list(&case["args"]).iter().map(|value| argument(value, device, &mut sizes)).collect::<Vec<_>>();
    let input = arguments.remove(0);
    let call = Call::new(device, input, arguments);
    let outcome = catch_unwind(AssertUnwindSafe(|| match op {
        "backward_nonscalar" => {
            let _ = call.x().tracked().backward();
        }
        _ => {
            calls::find(op).unwrap_or_else(|| panic!("harness: no such call in the table"))(&call);
        }
    }));
    let Err(payload) = outcome else { return Err("gave a result".to_string()) };
    let message = message(payload.as_ref());
    if is_refusal(&message, &sizes) { Ok(()) } else { Err(format!("ended with {message:?}")) }
}

fn is_refusal(message: &str, sizes: &[Vec<usize>]) -> bool {
    let Some((op, why)) = message.split_once(": ") else { return false };
    let is_name = op.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let says_what = op == "ids"
        || sizes.iter().any(|sizes| why.contains(&format!("{sizes:?}")))
        || why.starts_with("axis ");
    is_name && op != "harness" && says_what
}

/// What a panic said.
pub fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_else(|| "a panic without words".to_string())
}

/// Tensors are given by their sizes only; they hold zeros, masks hold ones.
fn argument(value: &Value, device: &Device, seen: &mut Vec<Vec<usize>>) -> Argument {
    let read_sizes = |list_of: &Value| -> Vec<usize> {
        list(list_of).iter().map(|size| size.as_u64().expect("a size") as usize).collect()
    };
    if let Some(sizes) = value.get("shape") {
        let sizes = read_sizes(sizes);
        seen.push(sizes.clone());
        return Argument::Tensor(Tensor::zeros(sizes, device));
    }
    if let Some(sizes) = value.get("bool") {
        let sizes = read_sizes(sizes);
        seen.push(sizes.clone());
        return Argument::Mask(Tensor::ones(sizes, device));
    }
    if let Some(nested) = value.get("int64") {
        let mut whole = Integers { values: Vec::new(), sizes: Vec::new() };
        flatten(nested, 0, &mut whole);
        return Argument::Integers(whole);
    }
    match value {
        Value::Array(parts) => {
            Argument::List(parts.iter().map(|part| argument(part, device, seen)).collect())
        }
        number => Argument::Number(number.as_f64().expect("a plain number")),
    }
}

/// Nested lists of equal lengths as values and sizes.
fn flatten(nested: &Value, depth: usize, whole: &mut Integers) {
    match nested {
        Value::Array(parts) => {
            if whole.sizes.len() == depth {
                whole.sizes.push(parts.len());
            }
            parts.iter().for_each(|part| flatten(part, depth + 1, whole));
        }
        number => whole.values.push(number.as_i64().expect("a whole number")),
    }
}
