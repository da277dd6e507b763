//! Tensors: an array and, where gradients are wanted, the history that made it.
//!
//! A tensor never changes; a new value is a new tensor, and cloning copies a handle only. Making,
//! reading and printing are here; what can be computed is in `ops/`.
//! Read next: `autograd.rs`, how a history is walked back; `recompute.rs`, how parts of it need not be kept.

pub mod autograd;
mod gradcheck;
pub(crate) mod recompute;

use std::f64::consts::PI;
use std::fmt;
use std::sync::Arc;

use crate::device::array::Array;
use crate::device::kernel::Kernel;
use crate::device::{Device, download, download_f64};
use crate::error::{Result, refuse};
use crate::expr::Program;
use crate::layout::{self, Layout, resolve_axis};
use crate::rng::Rng;
use autograd::Node;
pub use gradcheck::{Gradcheck, gradcheck};

/// An n-dimensional array of numbers on a device, with the way back to what it was made from.
#[derive(Clone)]
pub struct Tensor {
    array: Array,
    node: Option<Arc<Node>>,
}

/// Making tensors.
impl Tensor {
    /// The values in row-major order under `sizes`.
    ///
    /// **Panics** when their number is not the product of the sizes.
    #[track_caller]
    pub fn new(values: &[f32], sizes: impl AsRef<[usize]>, device: &Device) -> Tensor {
        let sizes = sizes.as_ref();
        check_count("Tensor::new", values.len(), sizes);
        Tensor::constant(device.upload(values, sizes))
    }

    /// As [`Tensor::new`], keeping all digits on the reference device; others round to f32.
    ///
    /// **Panics** when the number of values is not the product of the sizes.
    #[track_caller]
    pub fn from_f64(values: &[f64], sizes: impl AsRef<[usize]>, device: &Device) -> Tensor {
        let sizes = sizes.as_ref();
        check_count("Tensor::from_f64", values.len(), sizes);
        Tensor::constant(device.upload_f64(values, sizes))
    }

    /// The elements of `values` that `layout` sees: a view that need not be dense. Elements outside
    /// of it are kept and never read.
    ///
    /// ```
    /// use engrad::{Device, Tensor, layout::Layout};
    /// let columns = Layout::strided(vec![2, 2], vec![1, 3], 1);
    /// let x = Tensor::from_strided(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], columns, &Device::Cpu);
    /// assert_eq!(x.to_vec(), [1.0, 4.0, 2.0, 5.0]);
    /// ```
    ///
    /// **Panics** when the layout reaches outside of the values.
    #[track_caller]
    pub fn from_strided(values: &[f64], layout: Layout, device: &Device) -> Tensor {
        let (low, high) = layout.span().unwrap_or((0, 0));
        if low < 0 || high > values.len() as isize {
            refuse("Tensor::from_strided", format_args!("{layout:?} in {} values", values.len()));
        }
        Tensor::constant(device.upload_f64(values, &[values.len()]).view(layout))
    }

    /// Every element is `value`. Takes the room of one element, whatever the sizes.
    ///
    /// **Panics** when the machine cannot count as many elements, as all that makes tensors does.
    #[track_caller]
    pub fn full(value: f64, sizes: impl AsRef<[usize]>, device: &Device) -> Tensor {
        let one = device.upload_f64(&[value], &[]);
        let layout = one.layout().expand(sizes.as_ref()).expect("a scalar broadcasts to anything");
        Tensor::constant(one.view(layout))
    }

    /// Zeros, in the room of one element.
    #[track_caller]
    pub fn zeros(sizes: impl AsRef<[usize]>, device: &Device) -> Tensor {
        Tensor::full(0.0, sizes, device)
    }

    /// Ones, in the room of one element.
    #[track_caller]
    pub fn ones(sizes: impl AsRef<[usize]>, device: &Device) -> Tensor {
        Tensor::full(1.0, sizes, device)
    }

    /// The numbers 0, 1, .. `count - 1`: `[count]`.
    pub fn arange(count: usize, device: &Device) -> Tensor {
        let values: Vec<f64> = (0..count).map(|i| i as f64).collect();
        Tensor::from_f64(&values, [count], device)
    }

    /// Normally distributed numbers of mean 0, none further out than 5.8 deviations; the same on every
    /// device (Box and Muller 1958).
    #[track_caller]
    pub fn normal(deviation: f64, sizes: impl AsRef<[usize]>, rng: &mut Rng, device: &Device) -> Tensor {
        let [length, angle] = [rng.next_seed(), rng.next_seed()];
        let formula = Program::build(|[deviation]| {
            let radius = (-2.0 * (1.0 - deviation.random(length)).ln()).sqrt();
            deviation * radius * (2.0 * PI * deviation.random(angle)).cos()
        });
        Tensor::drawn(&formula, deviation, sizes.as_ref(), device)
    }

    /// Numbers drawn evenly from `low..high`; the same on every device.
    #[track_caller]
    pub fn uniform(
        low: f64,
        high: f64,
        sizes: impl AsRef<[usize]>,
        rng: &mut Rng,
        device: &Device,
    ) -> Tensor {
        let seed = rng.next_seed();
        let formula = Program::build(|[low]| low + (high - low) * low.random(seed));
        Tensor::drawn(&formula, low, sizes.as_ref(), device)
    }

    /// Random numbers are computed on one device, so that all start from the same values.
    #[track_caller]
    fn drawn(formula: &Program, parameter: f64, sizes: &[usize], device: &Device) -> Tensor {
        let inputs = vec![Tensor::full(parameter, sizes, &Device::Cpu).into_array()];
        let [values] = Device::Cpu.run(Kernel::Elementwise { program: formula, inputs, sizes });
        Tensor::constant(values).to(device).expect("main memory can be read")
    }

    /// A tensor without history.
    pub(crate) fn constant(array: Array) -> Tensor {
        Tensor { array, node: None }
    }

    pub(crate) fn with_node(array: Array, node: Option<Arc<Node>>) -> Tensor {
        Tensor { array, node }
    }
}

/// Looking at tensors.
impl Tensor {
    /// The size of each axis.
    pub fn sizes(&self) -> &[usize] {
        self.array.sizes()
    }

    /// The size of one axis, where -1 is the last.
    ///
    /// **Panics** when there is no such axis.
    #[track_caller]
    pub fn size(&self, axis: isize) -> usize {
        let axis = resolve_axis("size", axis, self.ndim());
        self.sizes().get(axis).copied().unwrap_or(1)
    }

    /// The number of axes.
    pub fn ndim(&self) -> usize {
        self.sizes().len()
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.array.layout().count()
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.array.device()
    }

    /// The values in row-major order, as f32. Waits for the device.
    ///
    /// **Errors** when the device has failed or had no room; devices report that late, so this is
    /// where it shows.
    pub fn read(&self) -> Result<Vec<f32>> {
        download(&self.array)
    }

    /// As [`Tensor::read`], keeping all digits of the reference device.
    ///
    /// **Errors** as [`Tensor::read`].
    pub fn read_f64(&self) -> Result<Vec<f64>> {
        download_f64(&self.array)
    }

    /// As [`Tensor::read`].
    ///
    /// **Panics** when the device has failed.
    #[track_caller]
    pub fn to_vec(&self) -> Vec<f32> {
        self.read().unwrap_or_else(|error| panic!("to_vec: {error}"))
    }

    /// As [`Tensor::read_f64`].
    ///
    /// **Panics** when the device has failed.
    #[track_caller]
    pub fn to_f64(&self) -> Vec<f64> {
        self.read_f64().unwrap_or_else(|error| panic!("to_f64: {error}"))
    }

    /// As [`Tensor::read_item`].
    ///
    /// **Panics** when there are more elements or fewer, or when the device has failed.
    #[track_caller]
    pub fn item(&self) -> f64 {
        self.read_item().unwrap_or_else(|error| panic!("item: {error}"))
    }

    /// The value of a tensor with one element. Waits for the device.
    ///
    /// **Errors** when the device has failed. **Panics** when there are more elements or fewer.
    #[track_caller]
    pub fn read_item(&self) -> Result<f64> {
        if self.count() != 1 {
            refuse("item", format_args!("sizes {:?} hold {} elements, not one", self.sizes(), self.count()));
        }
        Ok(self.read_f64()?[0])
    }

    /// The values as an ndarray.
    #[cfg(feature = "ndarray")]
    pub fn to_ndarray(&self) -> ndarray::ArrayD<f32> {
        ndarray::ArrayD::from_shape_vec(self.sizes(), self.to_vec()).expect("as many values as the sizes say")
    }

    /// The values of an ndarray in its logical order.
    #[cfg(feature = "ndarray")]
    pub fn from_ndarray(values: &ndarray::ArrayD<f32>, device: &Device) -> Tensor {
        Tensor::new(&values.iter().copied().collect::<Vec<f32>>(), values.shape(), device)
    }

    /// The same values on another device, without history. Waits for the device that has them.
    ///
    /// **Errors** as [`Tensor::read`].
    pub fn to(&self, device: &Device) -> Result<Tensor> {
        Ok(match self.device() == *device {
            true => self.detach(),
            false => Tensor::new(&self.read()?, self.sizes(), device),
        })
    }

    /// The values without their history: what kernels take and [`Tensor::from_op`] is given.
    pub fn array(&self) -> &Array {
        &self.array
    }

    pub(crate) fn into_array(self) -> Array {
        self.array
    }

    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.array.layout()
    }
}

#[track_caller]
fn check_count(op: &str, found: usize, sizes: &[usize]) {
    let expected = layout::count(sizes);
    if found != expected {
        refuse(op, format_args!("{found} values for the sizes {sizes:?}, which hold {expected}"));
    }
}

/// Sizes, device and the op it came from, then the first values.
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "{:?} on {}", self.sizes(), self.device())?;
        if let Some(node) = &self.node {
            write!(f, " from {}", node.name())?;
        }
        let values = match self.read_f64() {
            Ok(values) => values,
            Err(error) => return write!(f, ": {error}"),
        };
        let shown: Vec<String> = values.iter().take(SHOWN).map(|x| format!("{x:.5}")).collect();
        write!(f, ": [{}{}]", shown.join(", "), if values.len() > SHOWN { ", .." } else { "" })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
