//! Ops on each element by itself: the formula is the op.
//!
//! [`elementwise`] turns a formula into a kernel and its gradient; users write their own ops the
//! same way. Operands broadcast as in PyTorch. Comparisons give 1 or 0 and have no gradient.
//! Read next: `reduce.rs`.

use std::f64::consts::{LN_2, PI};
use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::device::array::Array;
use crate::device::kernel::Kernel;
use crate::error::refuse;
use crate::expr::{Expr, Program};
use crate::layout::broadcast;
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// Applies a formula to each element of the inputs, broadcast to common sizes. Its gradient follows.
///
/// ```
/// use engrad::{Device, Tensor, elementwise};
/// let x = Tensor::new(&[0.0, 3.0], [2], &Device::Cpu);
/// let cube = elementwise("cube", [&x], |[x]| x * x * x);
/// assert_eq!(cube.to_vec(), [0.0, 27.0]);
/// ```
///
/// **Panics** when the sizes do not broadcast.
#[track_caller]
pub fn elementwise<const N: usize>(
    name: &'static str,
    inputs: [&Tensor; N],
    formula: impl for<'p> Fn([Expr<'p>; N]) -> Expr<'p>,
) -> Tensor {
    consuming(name, inputs.map(Tensor::clone), formula)
}

/// As [`elementwise`] on tensors that are given away: where nobody else holds one, the result may take
/// its memory.
#[track_caller]
fn consuming<const N: usize>(
    name: &'static str,
    inputs: [Tensor; N],
    formula: impl for<'p> Fn([Expr<'p>; N]) -> Expr<'p>,
) -> Tensor {
    evaluated(name, inputs.into(), &Program::build(formula))
}

/// The op of a program: one function for all formulas, so that each adds little to the compiler's work.
#[track_caller]
fn evaluated(name: &'static str, inputs: Vec<Tensor>, program: &Program) -> Tensor {
    let edges = inputs.iter().enumerate().filter(|(_, input)| input.is_recorded()).map(|(i, input)| {
        let (pull, used) = program.pull(i)?;
        if pull.is_identity() {
            return edge(input, [], |g, []| g.clone());
        }
        let saved: Vec<Tensor> = used.iter().map(|&i| inputs[i].detach()).collect();
        edge(input, [], move |g, []| {
            let inputs = saved.iter().chain([g]).map(|x| x.array().clone()).collect();
            let [value] = run_program("pull", inputs, &pull);
            Tensor::constant(value)
        })
    });
    // What an edge saved is shared from here on, so the result is written elsewhere.
    let edges: Vec<_> = edges.collect();
    let [value] = run_program(name, inputs.into_iter().map(Tensor::into_array).collect(), program);
    Tensor::from_op(name, value, edges)
}

/// Broadcasts the inputs and runs a program on them. An array that nobody else holds may be written to.
#[track_caller]
pub(crate) fn run_program<const N: usize>(
    name: &str,
    mut inputs: Vec<Array>,
    program: &Program,
) -> [Array; N] {
    let (mut sizes, device) = (inputs[0].sizes().to_vec(), inputs[0].device());
    for input in &inputs[1..] {
        let Some(common) = broadcast(&sizes, input.sizes()) else {
            let all: Vec<_> = inputs.iter().map(Array::sizes).collect();
            refuse(name, format_args!("sizes {all:?} do not broadcast"))
        };
        sizes = common;
        if input.device() != device {
            refuse(name, format_args!("operands on {device} and {}", input.device()));
        }
    }
    for input in inputs.iter_mut().filter(|input| input.sizes() != sizes) {
        let layout = input.layout().expand(&sizes).expect("broadcast gave sizes that every operand fits");
        *input = input.view(layout);
    }
    device.run(Kernel::Elementwise { program, inputs, sizes: &sizes })
}

/// `ln(1 + e^x)`, written so that nothing overflows.
pub(crate) fn soft_plus(x: Expr<'_>) -> Expr<'_> {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Functions of each element: any sizes, the same sizes.
impl Tensor {
    /// `e^x`
    pub fn exp(&self) -> Tensor {
        elementwise("exp", [self], |[x]| x.exp())
    }

    /// `e^x - 1`, exact near 0.
    pub fn expm1(&self) -> Tensor {
        elementwise("expm1", [self], |[x]| x.exp_m1())
    }

    /// Natural logarithm.
    pub fn log(&self) -> Tensor {
        elementwise("log", [self], |[x]| x.ln())
    }

    /// `ln(1 + x)`, exact near 0.
    pub fn log1p(&self) -> Tensor {
        elementwise("log1p", [self], |[x]| x.ln_1p())
    }

    /// Logarithm to base 2.
    pub fn log2(&self) -> Tensor {
        elementwise("log2", [self], |[x]| x.ln() / LN_2)
    }

    /// Square root.
    pub fn sqrt(&self) -> Tensor {
        elementwise("sqrt", [self], |[x]| x.sqrt())
    }

    /// `1/√x`
    pub fn rsqrt(&self) -> Tensor {
        elementwise("rsqrt", [self], |[x]| 1.0 / x.sqrt())
    }

    /// `1/x`
    pub fn reciprocal(&self) -> Tensor {
        elementwise("reciprocal", [self], |[x]| 1.0 / x)
    }

    /// `x²`
    pub fn square(&self) -> Tensor {
        elementwise("square", [self], |[x]| x * x)
    }

    /// `x` to a constant power.
    pub fn powf(&self, exponent: f64) -> Tensor {
        elementwise("powf", [self], |[x]| x.pow(exponent))
    }

    /// Hyperbolic tangent.
    pub fn tanh(&self) -> Tensor {
        elementwise("tanh", [self], |[x]| x.tanh())
    }

    /// `1/(1 + e^-x)`
    pub fn sigmoid(&self) -> Tensor {
        elementwise("sigmoid", [self], |[x]| x.sigmoid())
    }

    /// `ln(sigmoid(x))`, exact for large negative x.
    pub fn log_sigmoid(&self) -> Tensor {
        elementwise("log_sigmoid", [self], |[x]| -soft_plus(-x))
    }

    /// `ln(1 + e^x)`
    pub fn softplus(&self) -> Tensor {
        elementwise("softplus", [self], |[x]| soft_plus(x))
    }

    /// `max(x, 0)`; the slope at 0 is 0.
    pub fn relu(&self) -> Tensor {
        elementwise("relu", [self], |[x]| x.less_equal(0.0).select(0.0, x))
    }

    /// `x` where positive, else `slope·x`.
    pub fn leaky_relu(&self, slope: f64) -> Tensor {
        elementwise("leaky_relu", [self], |[x]| x.less_equal(0.0).select(slope * x, x))
    }

    /// `x` where positive, else `alpha·(e^x - 1)`.
    pub fn elu(&self, alpha: f64) -> Tensor {
        elementwise("elu", [self], |[x]| x.less_equal(0.0).select(alpha * x.exp_m1(), x))
    }

    /// Gaussian error linear unit, exact: x times the normal distribution up to x (arXiv 1606.08415).
    pub fn gelu(&self) -> Tensor {
        elementwise("gelu", [self], |[x]| x.gelu())
    }

    /// Gaussian error linear unit, tanh form: `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))` (arXiv 1606.08415,
    /// section 2), computed with `0.5·(1 + tanh u) = sigmoid(2u)`.
    pub fn gelu_tanh(&self) -> Tensor {
        let scale = (8.0 / PI).sqrt();
        elementwise("gelu_tanh", [self], |[x]| x * (x * (scale + 0.044715 * scale * (x * x))).sigmoid())
    }

    /// `x·sigmoid(x)`, also called swish.
    pub fn silu(&self) -> Tensor {
        elementwise("silu", [self], |[x]| x * x.sigmoid())
    }

    /// `x·tanh(softplus(x))`
    pub fn mish(&self) -> Tensor {
        elementwise("mish", [self], |[x]| x * soft_plus(x).tanh())
    }

    /// The error function.
    pub fn erf(&self) -> Tensor {
        elementwise("erf", [self], |[x]| x.erf())
    }

    /// Sine of an angle in radians.
    pub fn sin(&self) -> Tensor {
        elementwise("sin", [self], |[x]| x.sin())
    }

    /// Cosine of an angle in radians.
    pub fn cos(&self) -> Tensor {
        elementwise("cos", [self], |[x]| x.cos())
    }

    /// Absolute value; the slope at 0 is 0.
    pub fn abs(&self) -> Tensor {
        elementwise("abs", [self], |[x]| x.abs())
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> Tensor {
        elementwise("sign", [self], |[x]| x.sign())
    }

    /// The whole number below.
    pub fn floor(&self) -> Tensor {
        elementwise("floor", [self], |[x]| x.floor())
    }

    /// The whole number above.
    pub fn ceil(&self) -> Tensor {
        elementwise("ceil", [self], |[x]| x.ceil())
    }

    /// The nearest whole number, halves to the even one.
    pub fn round(&self) -> Tensor {
        elementwise("round", [self], |[x]| x.round())
    }

    /// 1 where the element is not a number.
    pub fn is_nan(&self) -> Tensor {
        elementwise("is_nan", [self], |[x]| 1.0 - x.equal(x))
    }

    /// Limited to `low..=high`; the slope is 1 inside, 0 on the limits and outside.
    pub fn clamp(&self, low: f64, high: f64) -> Tensor {
        elementwise("clamp", [self], |[x]| {
            let raised = x.less_equal(low).select(low, x);
            x.number(high).less_equal(raised).select(high, raised)
        })
    }
}

/// Functions of two tensors, broadcast to common sizes. Each panics when the sizes do not broadcast.
impl Tensor {
    /// `self` to the power of `exponent`.
    #[track_caller]
    pub fn pow(&self, exponent: &Tensor) -> Tensor {
        elementwise("pow", [self, exponent], |[x, y]| x.pow(y))
    }

    /// The larger; a tie shares the gradient evenly. NaN if either is NaN.
    #[track_caller]
    pub fn maximum(&self, other: &Tensor) -> Tensor {
        elementwise("maximum", [self, other], |[a, b]| a.max(b))
    }

    /// The smaller; a tie shares the gradient evenly. NaN if either is NaN.
    #[track_caller]
    pub fn minimum(&self, other: &Tensor) -> Tensor {
        elementwise("minimum", [self, other], |[a, b]| a.min(b))
    }

    /// 1 where `self < other`.
    #[track_caller]
    pub fn lt(&self, other: &Tensor) -> Tensor {
        elementwise("lt", [self, other], |[a, b]| a.less(b))
    }

    /// 1 where `self <= other`.
    #[track_caller]
    pub fn le(&self, other: &Tensor) -> Tensor {
        elementwise("le", [self, other], |[a, b]| a.less_equal(b))
    }

    /// 1 where `self > other`.
    #[track_caller]
    pub fn gt(&self, other: &Tensor) -> Tensor {
        elementwise("gt", [self, other], |[a, b]| b.less(a))
    }

    /// 1 where `self >= other`.
    #[track_caller]
    pub fn ge(&self, other: &Tensor) -> Tensor {
        elementwise("ge", [self, other], |[a, b]| b.less_equal(a))
    }

    /// 1 where both are equal.
    #[track_caller]
    pub fn eq(&self, other: &Tensor) -> Tensor {
        elementwise("eq", [self, other], |[a, b]| a.equal(b))
    }

    /// 1 where they differ.
    #[track_caller]
    pub fn ne(&self, other: &Tensor) -> Tensor {
        elementwise("ne", [self, other], |[a, b]| 1.0 - a.equal(b))
    }

    /// `yes` where `condition` is not 0, else `no`.
    #[track_caller]
    pub fn where_(condition: &Tensor, yes: &Tensor, no: &Tensor) -> Tensor {
        elementwise("where", [condition, yes, no], |[c, a, b]| c.select(a, b))
    }

    /// `value` where `mask` is not 0, else the element.
    #[track_caller]
    pub fn masked_fill(&self, mask: &Tensor, value: f64) -> Tensor {
        elementwise("masked_fill", [self, mask], |[x, mask]| mask.select(value, x))
    }
}

/// `+ - * /` between tensors, references to tensors, and numbers.
macro_rules! forward_operators {
    ($($operator:ident $method:ident $name:literal $symbol:tt),*) => {$(
        impl $operator<Tensor> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: Tensor) -> Tensor {
                consuming($name, [self, other], |[a, b]| a $symbol b)
            }
        }
        impl $operator<f64> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: f64) -> Tensor {
                consuming($name, [self], |[a]| a $symbol other)
            }
        }
        impl $operator<Tensor> for f64 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: Tensor) -> Tensor {
                consuming($name, [other], |[b]| self $symbol b)
            }
        }
        forward_operators!(@shared $operator $method, &Tensor, &Tensor, |a, b| a.clone() $symbol b.clone());
        forward_operators!(@shared $operator $method, Tensor, &Tensor, |a, b| a $symbol b.clone());
        forward_operators!(@shared $operator $method, &Tensor, Tensor, |a, b| a.clone() $symbol b);
        forward_operators!(@shared $operator $method, &Tensor, f64, |a, b| a.clone() $symbol b);
        forward_operators!(@shared $operator $method, f64, &Tensor, |a, b| a $symbol b.clone());
    )*};
    (@shared $operator:ident $method:ident, $left:ty, $right:ty, |$a:ident, $b:ident| $body:expr) => {
        impl $operator<$right> for $left {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, $b: $right) -> Tensor {
                let $a = self;
                $body
            }
        }
    };
}
forward_operators!(Add add "add" +, Sub sub "sub" -, Mul mul "mul" *, Div div "div" /);

impl Neg for Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        consuming("neg", [self], |[x]| -x)
    }
}

impl Neg for &Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        -self.clone()
    }
}
