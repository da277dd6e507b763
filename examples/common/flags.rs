//! What the value of a flag may be; clap puts the flag's name before the message.
//! Read next: `compare/options.rs`, which uses them.

use engrad::{Device, Error};

/// A finite number that fits.
pub fn number(text: &str, fits: fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && fits(*number));
    number.ok_or_else(|| format!("expected {expected}"))
}

/// A number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0, "a number above 0")
}

/// The name of a device that can be opened.
#[allow(dead_code, reason = "programs that keep the device itself open it by `device.rs`")]
pub fn device(name: &str) -> Result<String, String> {
    name.parse::<Device>().map(|device| device.to_string()).map_err(|error: Error| error.to_string())
}
