//! Reading an `adapter_config.json`: every malformed entry and every variant that is not implemented
//! is refused by name.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The entries of a configuration.
#[derive(Clone, Copy)]
pub(super) struct Settings<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Settings<'a> {
    /// An entry that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// **Errors** when an entry is not there, or null.
    pub(super) fn need(&self, keys: &[&str]) -> Result<()> {
        let missing: Vec<&&str> = keys.iter().filter(|key| self.get(key).is_none()).collect();
        if missing.is_empty() { Ok(()) } else { Err(Error::Adapter(format!("{missing:?} missing"))) }
    }

    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.read(key, default, "a number", Value::as_f64)
    }

    /// A whole number that fits a size.
    pub(super) fn whole(&self, key: &str, default: usize) -> Result<usize> {
        let read = |value: &Value| value.as_u64().filter(|&n| n < 1 << 32).map(|n| n as usize);
        self.read(key, default, "a whole number", read)
    }

    /// A whole number from 1 to 65536, for sizes that a layer does not limit: a wrong one must not end in an
    /// attempt to allocate terabytes.
    pub(super) fn size(&self, key: &str, default: usize) -> Result<usize> {
        match self.whole(key, default)? {
            size @ 1..=65536 => Ok(size),
            other => Err(Error::Adapter(format!("{key} is {other}, expected 1 to 65536"))),
        }
    }

    /// A whole number above 0.
    pub(super) fn positive(&self, key: &str, default: usize) -> Result<usize> {
        match self.whole(key, default)? {
            0 => Err(Error::Adapter(format!("{key} is 0, expected a positive whole number"))),
            number => Ok(number),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        self.read(key, false, "true or false", Value::as_bool)
    }

    pub(super) fn probability(&self, key: &str) -> Result<f64> {
        let value = self.number(key, 0.0)?;
        let fits = (0.0..1.0).contains(&value);
        if fits {
            Ok(value)
        } else {
            Err(Error::Adapter(format!("{key} is {value}, expected a probability below 1")))
        }
    }

    /// One of several names, the first being the default.
    pub(super) fn choice<T: Clone>(&self, key: &str, choices: &[(&str, T)]) -> Result<T> {
        let Some(value) = self.get(key) else { return Ok(choices[0].1.clone()) };
        let found = choices.iter().find(|(name, _)| value == name);
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        found.map(|(_, choice)| choice.clone()).ok_or_else(|| {
            Error::Adapter(format!("{key} = {value} is not implemented; expected one of {names:?}"))
        })
    }

    /// A list of names; empty when there is none. One name stands for a list of one.
    pub(super) fn names(&self, key: &str) -> Result<Vec<String>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::String(name)) => Ok(vec![name.clone()]),
            Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
                Ok(names.iter().filter_map(Value::as_str).map(String::from).collect())
            }
            Some(other) => Err(Error::Adapter(format!("{key} is {other}, expected a list of names"))),
        }
    }

    /// A list of whole numbers, or one.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let refused = |value: &Value| Error::Adapter(format!("{key} is {value}, expected whole numbers"));
        let whole = |value: &Value| value.as_u64().map(|n| n as usize).ok_or_else(|| refused(value));
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list.iter().map(whole).collect::<Result<_>>()?)),
            Some(value) => Ok(Some(vec![whole(value)?])),
        }
    }

    /// A map; empty when there is none.
    pub(super) fn map(&self, key: &str) -> Result<Vec<(&'a String, &'a Value)>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => Ok(map.iter().collect()),
            Some(other) => Err(Error::Adapter(format!("{key} is {other}, expected a map"))),
        }
    }

    /// **Errors** when an entry is neither absent, null, nor its plain value (0 and 0.0 are the same): what it
    /// asks for is not implemented.
    pub(super) fn plain(&self, entries: &[(&str, Value)]) -> Result<()> {
        for (key, plain) in entries {
            let same = |value: &Value| {
                value == plain || value.as_f64().is_some_and(|number| plain.as_f64() == Some(number))
            };
            if let Some(value) = self.get(key).filter(|value| !same(value)) {
                return Err(Error::Adapter(format!("{key} = {value} is a variant that is not implemented")));
            }
        }
        Ok(())
    }

    fn read<T>(
        &self,
        key: &str,
        default: T,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => {
                read(value).ok_or_else(|| Error::Adapter(format!("{key} is {value}, expected {expected}")))
            }
        }
    }
}

/// A number as PEFT writes it: whole ones without a point, because some readers insist on it.
pub(super) fn plain_number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}

/// The object that `json!({..})` made.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
