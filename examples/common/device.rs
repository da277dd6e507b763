//! `--device`, which every example takes.
//! Read next: `flags.rs`, for programs that keep the name.

use clap::Parser;
use engrad::Device;
use serde::{Deserialize, Serialize};

// No doc comment: it would take the place of the example's own description.
#[derive(Clone, Debug, Parser, Serialize, Deserialize)]
pub struct OnDevice {
    /// Where tensors live: cpu, gpu, or reference (f64 and plain loops, exact and slow)
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    #[serde(with = "by_name")]
    pub device: Device,
}

/// A device in a file is its name; reading the name opens the device.
mod by_name {
    use engrad::Device;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(device: &Device, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(device)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Device, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
