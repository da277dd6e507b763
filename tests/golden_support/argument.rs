//! What a call is given: numbers, axes, tensors, indices, made from the JSON of a case.
//!
//! PyTorch passes some things differently than this crate: integer tensors are [`Ids`] here, optional
//! arguments are left out by position or by name. [`Call`] hides that from the table in `calls/`.
//! Read next: `case.rs`.

use std::collections::BTreeMap;

use engrad::layout::Layout;
use engrad::{Device, Ids, Tensor};
use serde_json::Value;

use super::folder::File;

/// The place of an argument that is only given by name.
pub const BY_NAME: usize = usize::MAX;

/// One argument.
#[derive(Clone)]
pub enum Argument {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
    List(Vec<Argument>),
    Slice([Option<isize>; 3]),
    Ellipsis,
    /// A tensor of floating-point numbers.
    Tensor(Tensor),
    /// A tensor of true (1) and false (0).
    Mask(Tensor),
    Integers(Integers),
    /// Every tensor is computed in its device's own type, so a requested type says nothing.
    Type,
}

/// A tensor of whole numbers, which this crate has as checked indices only.
#[derive(Clone)]
pub struct Integers {
    pub values: Vec<i64>,
    pub sizes: Vec<usize>,
}

/// Everything that one call is given.
pub struct Call {
    pub device: Device,
    input: Argument,
    arguments: Vec<Argument>,
    named: BTreeMap<String, Argument>,
    /// The tensors that gradients are asked of, by their path in the case (`args.0`).
    pub leaves: BTreeMap<String, Tensor>,
}

impl Call {
    pub fn new(device: &Device, input: Argument, arguments: Vec<Argument>) -> Call {
        Call { device: device.clone(), input, arguments, named: BTreeMap::new(), leaves: BTreeMap::new() }
    }

    /// The call of a case.
    pub fn read(case: &Value, file: &File, device: &Device) -> Call {
        let mut reader = Reader { file, device, leaves: BTreeMap::new() };
        let input = reader.argument(&case["input"], "input");
        let arguments = list(&case["args"]).iter().enumerate();
        let arguments = arguments.map(|(at, value)| reader.argument(value, &format!("args.{at}"))).collect();
        let named = case["kwargs"].as_object().into_iter().flatten();
        let named = named
            .map(|(name, value)| (name.clone(), reader.argument(value, &format!("kwargs.{name}"))))
            .collect();
        let leaves = reader.leaves;
        Call { named, leaves, ..Call::new(device, input, arguments) }
    }

    pub fn input(&self) -> &Argument {
        &self.input
    }

    /// The input as a tensor.
    pub fn x(&self) -> Tensor {
        self.as_tensor(&self.input)
    }

    /// The argument at place `at` behind the input, or the one of this name; null when it is left out.
    pub fn get(&self, at: usize, name: &str) -> &Argument {
        self.arguments.get(at).or_else(|| self.named.get(name)).unwrap_or(&Argument::Null)
    }

    pub fn has(&self, at: usize, name: &str) -> bool {
        !matches!(self.get(at, name), Argument::Null)
    }

    pub fn tensor(&self, at: usize, name: &str) -> Tensor {
        self.as_tensor(self.get(at, name))
    }

    pub fn tensor_if(&self, at: usize, name: &str) -> Option<Tensor> {
        self.has(at, name).then(|| self.tensor(at, name))
    }

    pub fn number(&self, at: usize, name: &str, default: f64) -> f64 {
        match self.get(at, name) {
            Argument::Null => default,
            Argument::Number(number) => *number,
            Argument::Integers(whole) if whole.values.len() == 1 => whole.values[0] as f64,
            _ => panic!("harness: {name} is no number"),
        }
    }

    pub fn integer(&self, at: usize, name: &str, default: isize) -> isize {
        self.number(at, name, default as f64) as isize
    }

    pub fn count(&self, at: usize, name: &str) -> usize {
        usize::try_from(self.integer(at, name, -1))
            .unwrap_or_else(|_| panic!("harness: {name} is negative or missing"))
    }

    pub fn flag(&self, at: usize, name: &str, default: bool) -> bool {
        match self.get(at, name) {
            Argument::Null => default,
            Argument::Flag(flag) => *flag,
            Argument::Number(number) => *number != 0.0,
            _ => panic!("harness: {name} is neither true nor false"),
        }
    }

    pub fn text(&self, at: usize, name: &str, default: &str) -> String {
        match self.get(at, name) {
            Argument::Null => default.to_string(),
            Argument::Text(text) => text.clone(),
            _ => panic!("harness: {name} is no text"),
        }
    }

    /// Whole numbers, given as a list or as one number; `None` when left out.
    pub fn integers(&self, at: usize, name: &str) -> Option<Vec<isize>> {
        let number = |argument: &Argument| match argument {
            Argument::Number(number) => *number as isize,
            _ => panic!("harness: {name} holds something that is no number"),
        };
        match self.get(at, name) {
            Argument::Null => None,
            Argument::List(list) => Some(list.iter().map(number).collect()),
            one => Some(vec![number(one)]),
        }
    }

    pub fn counts(&self, at: usize, name: &str) -> Vec<usize> {
        let numbers = self.integers(at, name).unwrap_or_default();
        let count = |number| usize::try_from(number).unwrap_or_else(|_| panic!("harness: {name} {number}"));
        numbers.into_iter().map(count).collect()
    }

    /// The tensors of a list of tensors.
    pub fn tensors(&self, argument: &Argument) -> Vec<Tensor> {
        match argument {
            Argument::List(list) => list.iter().map(|part| self.as_tensor(part)).collect(),
            one => vec![self.as_tensor(one)],
        }
    }

    pub fn whole_numbers<'a>(&'a self, argument: &'a Argument) -> &'a Integers {
        match argument {
            Argument::Integers(whole) => whole,
            _ => panic!("harness: an integer tensor is expected"),
        }
    }

    /// Indices below `limit`.
    ///
    /// **Panics** with this crate's own message when it refuses them.
    pub fn ids(&self, at: usize, name: &str, limit: usize) -> Ids {
        let whole = self.whole_numbers(self.get(at, name));
        checked_ids(whole, limit, None)
    }

    /// A number becomes a tensor without axes.
    pub fn as_tensor(&self, argument: &Argument) -> Tensor {
        match argument {
            Argument::Tensor(tensor) | Argument::Mask(tensor) => tensor.clone(),
            Argument::Number(number) => Tensor::full(*number, [], &self.device),
            Argument::Integers(whole) => {
                let values: Vec<f64> = whole.values.iter().map(|&value| value as f64).collect();
                Tensor::from_f64(&values, &whole.sizes, &self.device)
            }
            _ => panic!("harness: a tensor is expected"),
        }
    }
}

/// Indices as this crate checks them; those equal to `ignored` do not count.
pub fn checked_ids(whole: &Integers, limit: usize, ignored: Option<i64>) -> Ids {
    Ids::signed(&whole.values, whole.sizes.clone(), limit, ignored).unwrap_or_else(|error| panic!("{error}"))
}

/// Negative indices count from the end, as the few calls have it that index like brackets do.
pub fn from_the_end(whole: &Integers, limit: usize) -> Integers {
    let resolve = |&id: &i64| if id < 0 { id + limit as i64 } else { id };
    Integers { values: whole.values.iter().map(resolve).collect(), sizes: whole.sizes.clone() }
}

struct Reader<'a> {
    file: &'a File,
    device: &'a Device,
    leaves: BTreeMap<String, Tensor>,
}

impl Reader<'_> {
    fn argument(&mut self, value: &Value, path: &str) -> Argument {
        match value {
            Value::Null => Argument::Null,
            Value::Bool(flag) => Argument::Flag(*flag),
            Value::Number(number) => Argument::Number(number.as_f64().expect("JSON numbers fit f64")),
            Value::String(text) => Argument::Text(text.clone()),
            Value::Array(parts) => {
                let parts = parts.iter().enumerate();
                Argument::List(parts.map(|(at, part)| self.argument(part, &format!("{path}.{at}"))).collect())
            }
            Value::Object(fields) if fields.contains_key("tensor") => self.tensor(value, path),
            Value::Object(fields) => special(fields),
        }
    }

    fn tensor(&mut self, value: &Value, path: &str) -> Argument {
        let stored = self.file.tensor(text(&value["tensor"]));
        match text(&value["dtype"]) {
            "float64" | "float32" => {
                let tensor = match value.get("view").filter(|view| !view.is_null()) {
                    Some(view) => self.view(view),
                    None => Tensor::from_f64(&stored.values, &stored.sizes, self.device),
                };
                assert_eq!(tensor.sizes(), stored.sizes, "harness: a view of other sizes than its value");
                if value["requires_grad"].as_bool() != Some(true) {
                    return Argument::Tensor(tensor);
                }
                let leaf = tensor.tracked();
                self.leaves.insert(path.to_string(), leaf.clone());
                Argument::Tensor(leaf)
            }
            "bool" => Argument::Mask(Tensor::from_f64(&stored.values, &stored.sizes, self.device)),
            "int64" | "int32" | "uint8" => Argument::Integers(Integers {
                values: stored.values.iter().map(|&value| value as i64).collect(),
                sizes: stored.sizes.clone(),
            }),
            other => panic!("harness: tensors of type {other} are not known"),
        }
    }

    /// The strided view itself, so that a wrong stride reads a wrong (often NaN) element.
    fn view(&self, view: &Value) -> Tensor {
        let base = self.file.tensor(text(&view["base"]));
        let whole = |name: &str| -> Vec<isize> {
            list(&view[name]).iter().map(|number| number.as_i64().expect("a whole number") as isize).collect()
        };
        let sizes = whole("sizes").into_iter().map(|size| size as usize).collect();
        let offset = view["offset"].as_u64().expect("an offset") as usize;
        Tensor::from_strided(&base.values, Layout::strided(sizes, whole("strides"), offset), self.device)
    }
}

fn special(fields: &serde_json::Map<String, Value>) -> Argument {
    if let Some(float) = fields.get("float") {
        return Argument::Number(text(float).parse().expect("inf, -inf or nan"));
    }
    if let Some(slice) = fields.get("slice") {
        let parts = list(slice);
        return Argument::Slice(std::array::from_fn(|at| parts[at].as_i64().map(|part| part as isize)));
    }
    if fields.contains_key("ellipsis") {
        return Argument::Ellipsis;
    }
    assert!(fields.contains_key("dtype"), "harness: an argument {fields:?} is not known");
    Argument::Type
}

/// The items of a JSON list; none for anything else.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// **Panics** when the value is no text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("harness: {value} is no text"))
}
