//! Parameters: the only values that change, and then as a whole.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::device::Device;
use crate::error::refuse;
use crate::tensor::Tensor;

/// A named place for a tensor that training, loading or merging may replace. Cloning shares it.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

/// How files hold a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// A matrix with its axes exchanged: GPT-2's published weights are `[in, out]`.
    Transposed,
    /// Computed rather than learned: never trained, and a file may leave it out.
    Buffer,
}

struct Inner {
    id: u64,
    form: Form,
    sizes: Vec<usize>,
    /// A leaf while the parameter is trainable, without history while it is frozen.
    value: RwLock<Tensor>,
}

impl Param {
    /// A trainable parameter. Its sizes and device never change.
    pub fn new(value: &Tensor) -> Param {
        Param::with_form(value, Form::Plain)
    }

    /// A parameter that files hold in another form; it is trainable unless it is a buffer.
    pub fn with_form(value: &Tensor, form: Form) -> Param {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let sizes = value.sizes().to_vec();
        let value = if form == Form::Buffer { value.detach() } else { value.tracked() };
        Param(Arc::new(Inner { id, form, sizes, value: RwLock::new(value) }))
    }

    /// The present value: a leaf for gradients if the parameter is trainable.
    pub fn value(&self) -> Tensor {
        self.0.value.read().expect("no code panics while it holds a parameter").clone()
    }

    /// Gives the parameter a new value; whether it is trainable stays.
    ///
    /// **Panics** when the sizes or the device differ.
    #[track_caller]
    pub fn set(&self, value: &Tensor) {
        if value.sizes() != self.sizes() || value.device() != self.device() {
            let (found, device) = (value.sizes(), value.device());
            refuse(
                "Param::set",
                format_args!("{found:?} on {device} to {:?} on {}", self.sizes(), self.device()),
            );
        }
        self.replace(value.detach().contiguous(), self.is_trainable());
    }

    /// Gives the parameter a value made from its present one, which is handed over: if nobody else holds
    /// it, the new one may take its memory. `change` keeps sizes and device, and does not panic.
    pub(crate) fn update(&self, change: impl FnOnce(Tensor) -> Tensor) {
        let mut value = self.0.value.write().expect("no code panics while it holds a parameter");
        let tracked = value.is_tracked();
        let present = std::mem::replace(&mut *value, Tensor::zeros([], &Device::Reference));
        let new = change(present);
        *value = if tracked { new.tracked() } else { new };
    }

    /// How files hold it.
    pub fn form(&self) -> Form {
        self.0.form
    }

    /// What a file holds of a value of this parameter, and the value that a file's tensor stands for:
    /// exchanging the axes is its own inverse.
    pub fn stored(&self, value: &Tensor) -> Tensor {
        match self.0.form {
            Form::Transposed => value.detach().t().contiguous(),
            Form::Plain | Form::Buffer => value.detach(),
        }
    }

    /// The sizes of what a file holds.
    pub fn stored_sizes(&self) -> Vec<usize> {
        let mut sizes = self.0.sizes.clone();
        if self.0.form == Form::Transposed {
            sizes.reverse();
        }
        sizes
    }

    /// Takes part in training from now on; a buffer never does.
    pub fn unfreeze(&self) {
        if !self.is_trainable() && self.0.form != Form::Buffer {
            self.replace(self.value(), true);
        }
    }

    /// Stays as it is from now on, and costs no gradient work.
    pub fn freeze(&self) {
        self.replace(self.value().detach(), false);
    }

    fn replace(&self, value: Tensor, trainable: bool) {
        let value = if trainable { value.tracked() } else { value };
        *self.0.value.write().expect("no code panics while it holds a parameter") = value;
    }

    /// Whether training changes it.
    pub fn is_trainable(&self) -> bool {
        self.value().is_tracked()
    }

    /// The size of each axis.
    pub fn sizes(&self) -> &[usize] {
        &self.0.sizes
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.0.sizes.iter().product()
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.value().device()
    }

    /// Tells parameters apart; clones share it.
    pub fn id(&self) -> u64 {
        self.0.id
    }
}

impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Param #{} {:?}", self.id(), self.sizes())
    }
}
