//! Named tensors in safetensors files, written whole or not at all.
//!
//! Format: <https://github.com/huggingface/safetensors>. F64, F32, F16 and BF16 are read; integer
//! tensors are buffers and passed over.
//! Read next: `loading.rs`, how a model gets its tensors.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

pub(crate) use super::loading::{assign, matched};
pub use super::loading::{load, save};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::layout::checked_count;
use crate::tensor::Tensor;

/// The tensors of a file and the text entries of its header.
pub struct Contents {
    /// Tensors of floating-point numbers by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Free entries of the header.
    pub metadata: HashMap<String, String>,
}

/// Reads every floating-point tensor of a file onto a device.
///
/// **Errors** when the file cannot be read, or is truncated, inconsistent or of an unknown type.
pub fn read(path: impl AsRef<Path>, device: &Device) -> Result<Contents> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let malformed = |error| Error::format(path, format!("not a valid safetensors file: {error}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(malformed)?;
    let file = SafeTensors::deserialize(&bytes).map_err(malformed)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        if let Some(tensor) =
            to_tensor(&view, device).map_err(|what| Error::format(path, format!("{name}: {what}")))?
        {
            tensors.insert(name.to_string(), tensor);
        }
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(Contents { tensors, metadata })
}

/// `None` for integers, which are buffers rather than weights.
fn to_tensor(view: &TensorView, device: &Device) -> std::result::Result<Option<Tensor>, String> {
    let (bytes, sizes) = (view.data(), view.shape());
    // A size of 0 hides any other from the format's own check.
    if checked_count(sizes).is_none() {
        return Err(format!("the sizes {sizes:?} are beyond any memory"));
    }
    let f32_of = |values: Vec<f32>| Some(Tensor::new(&values, sizes, device));
    Ok(match view.dtype() {
        Dtype::F32 => f32_of(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::F16 => f32_of(bytes.as_chunks().0.iter().map(|b| f16(*b)).collect()),
        Dtype::BF16 => f32_of(bytes.as_chunks().0.iter().map(|b| bf16(*b)).collect()),
        Dtype::F64 => {
            let values: Vec<f64> = bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
            Some(Tensor::from_f64(&values, sizes, device))
        }
        Dtype::BOOL
        | Dtype::U8
        | Dtype::I8
        | Dtype::I16
        | Dtype::U16
        | Dtype::I32
        | Dtype::U32
        | Dtype::I64
        | Dtype::U64 => None,
        other => return Err(format!("type {other:?} is not supported; expected F64, F32, F16 or BF16")),
    })
}

/// A bfloat16: the upper half of an f32.
fn bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// A number of IEEE 754 binary16: a sign, 5 bits of exponent, 10 of fraction. Each is an f32 too.
fn f16(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let magnitude = bits & 0x7fff;
    // The fields move to their places in an f32, whose exponent is biased by 112 more.
    let value = match magnitude {
        ..0x0400 => magnitude as f32 / 16_777_216.0,
        0x0400..0x7c00 => f32::from_bits((magnitude << 13) + (112 << 23)),
        _ => f32::from_bits((magnitude << 13) | f32::INFINITY.to_bits()),
    };
    if bits == magnitude { value } else { -value }
}

/// Writes tensors to a file: f64 from the reference device, f32 from others. The file appears whole,
/// under its name, or the one that was there stays.
///
/// **Errors** when the file cannot be written.
pub fn write(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, Tensor>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let stored = |(name, tensor)| Ok((name, Stored::new(tensor)?));
    let views = tensors.iter().map(stored).collect::<Result<Vec<(&String, Stored)>>>()?;
    let metadata = metadata.into_iter().collect();
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|error| Error::format(path, format!("cannot be written: {error}")))?;
    write_whole(path, &bytes)
}

/// Replaces a file in one step: written beside it, flushed to the disk, then renamed.
///
/// **Errors** when the directory cannot be written or is full; the earlier file is then untouched.
pub fn write_whole(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = std::fs::File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| {
        // The half-written file is of no use; if even removing it fails, the first error says more.
        let _ = std::fs::remove_file(&partial);
        Error::io(path, error)
    })
}

/// The bytes of one tensor as the format wants them.
struct Stored {
    dtype: Dtype,
    sizes: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(tensor: &Tensor) -> Result<Stored> {
        let (dtype, bytes) = match tensor.device().keeps_f64() {
            true => (Dtype::F64, tensor.read_f64()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
            false => (Dtype::F32, tensor.read()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        Ok(Stored { dtype, sizes: tensor.sizes().to_vec(), bytes })
    }
}

impl safetensors::View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.sizes
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
