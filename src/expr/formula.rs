//! How a formula is written: terms that record what is done to them.
//!
//! A term is a number of a line in the [`Arena`] of the program under construction; `+ - * /` and the
//! methods add lines. What multiplies by one or adds zero is left out, so that slopes come out short.

use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{Binary, Instruction, Unary};

/// The program under construction.
#[derive(Default)]
pub(super) struct Arena(RefCell<Vec<Instruction>>);

/// A term of the program being built. It takes part in `+ - * /` with terms and numbers.
#[derive(Clone, Copy)]
pub struct Expr<'p> {
    arena: &'p Arena,
    pub(super) index: usize,
}

impl Arena {
    /// Adds a line, or finds the same one that is there. Zeros of either sign are equal and not the same.
    pub(super) fn push(&self, instruction: Instruction) -> Expr<'_> {
        let mut lines = self.0.borrow_mut();
        let same = |line: &Instruction| match (*line, instruction) {
            (Instruction::Number(a), Instruction::Number(b)) => a.to_bits() == b.to_bits(),
            (line, instruction) => line == instruction,
        };
        let found = lines.iter().position(same);
        let index = found.unwrap_or_else(|| {
            lines.push(instruction);
            lines.len() - 1
        });
        Expr { arena: self, index }
    }

    /// What was recorded.
    pub(super) fn into_lines(self) -> Vec<Instruction> {
        self.0.into_inner()
    }
}

/// What can stand beside a term: another term, or a number.
pub trait Operand<'p> {
    /// The operand as a term of the same program as `beside`.
    fn term(self, beside: Expr<'p>) -> Expr<'p>;
}

impl<'p> Operand<'p> for Expr<'p> {
    fn term(self, _: Expr<'p>) -> Expr<'p> {
        self
    }
}

impl<'p> Operand<'p> for f64 {
    fn term(self, beside: Expr<'p>) -> Expr<'p> {
        beside.number(self)
    }
}

/// What can be done to terms, beside `+ - * /`.
impl<'p> Expr<'p> {
    /// A number in the same program.
    pub fn number(self, value: f64) -> Expr<'p> {
        self.arena.push(Instruction::Number(value))
    }

    /// A uniform random number in `[0, 1)` of (seed, position of the element).
    pub fn random(self, seed: u64) -> Expr<'p> {
        self.arena.push(Instruction::Random(seed))
    }

    fn as_number(self) -> Option<f64> {
        match self.arena.0.borrow()[self.index] {
            Instruction::Number(value) => Some(value),
            _ => None,
        }
    }

    fn unary(self, f: Unary) -> Expr<'p> {
        self.arena.push(Instruction::Unary(f, self.index))
    }

    /// Records `f(self, other)`, leaving out what multiplies by one or adds zero.
    fn binary(self, f: Binary, other: impl Operand<'p>) -> Expr<'p> {
        let other = other.term(self);
        match (f, self.as_number(), other.as_number()) {
            (Binary::Mul, Some(1.0), _) | (Binary::Add, Some(0.0), _) => return other,
            (Binary::Mul | Binary::Div, _, Some(1.0)) | (Binary::Add | Binary::Sub, _, Some(0.0)) => {
                return self;
            }
            (Binary::Mul, Some(a), Some(b)) => return self.number(a * b),
            (Binary::Mul, Some(-1.0), _) => return -other,
            (Binary::Mul, _, Some(-1.0)) => return -self,
            _ => {}
        }
        self.arena.push(Instruction::Binary(f, self.index, other.index))
    }

    /// `e^x`
    pub fn exp(self) -> Expr<'p> {
        self.unary(Unary::Exp)
    }

    /// `e^x - 1`, exact near 0.
    pub fn exp_m1(self) -> Expr<'p> {
        self.unary(Unary::ExpM1)
    }

    /// Natural logarithm.
    pub fn ln(self) -> Expr<'p> {
        self.unary(Unary::Ln)
    }

    /// `ln(1 + x)`, exact near 0.
    pub fn ln_1p(self) -> Expr<'p> {
        self.unary(Unary::Ln1p)
    }

    /// Square root.
    pub fn sqrt(self) -> Expr<'p> {
        self.unary(Unary::Sqrt)
    }

    /// Hyperbolic tangent.
    pub fn tanh(self) -> Expr<'p> {
        self.unary(Unary::Tanh)
    }

    /// `1/(1 + e^-x)`
    pub fn sigmoid(self) -> Expr<'p> {
        self.unary(Unary::Sigmoid)
    }

    /// The error function.
    pub fn erf(self) -> Expr<'p> {
        self.unary(Unary::Erf)
    }

    /// `x·Φ(x)`, where `Φ(x) = 0.5·(1 + erf(x/√2))` is the normal distribution up to `x`: one line, and its
    /// slope another, because the widest activations of a transformer go through it.
    pub fn gelu(self) -> Expr<'p> {
        self.unary(Unary::Gelu)
    }

    /// `Φ(x) + x·Φ'(x)`, the slope of [`Expr::gelu`].
    pub fn gelu_slope(self) -> Expr<'p> {
        self.unary(Unary::GeluSlope)
    }

    /// Sine of an angle in radians.
    pub fn sin(self) -> Expr<'p> {
        self.unary(Unary::Sin)
    }

    /// Cosine of an angle in radians.
    pub fn cos(self) -> Expr<'p> {
        self.unary(Unary::Cos)
    }

    /// Absolute value; the slope at 0 is 0.
    pub fn abs(self) -> Expr<'p> {
        self.unary(Unary::Abs)
    }

    /// -1, 0 or 1.
    pub fn sign(self) -> Expr<'p> {
        self.unary(Unary::Sign)
    }

    /// The whole number below.
    pub fn floor(self) -> Expr<'p> {
        self.unary(Unary::Floor)
    }

    /// The whole number above.
    pub fn ceil(self) -> Expr<'p> {
        self.unary(Unary::Ceil)
    }

    /// The nearest whole number, halves to the even one.
    pub fn round(self) -> Expr<'p> {
        self.unary(Unary::Round)
    }

    /// The larger; a tie shares the slope evenly. NaN if either is NaN.
    pub fn max(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::Max, other)
    }

    /// The smaller; a tie shares the slope evenly. NaN if either is NaN.
    pub fn min(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::Min, other)
    }

    /// 1 where `self < other`, else 0.
    pub fn less(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::Less, other)
    }

    /// 1 where `self <= other`, else 0.
    pub fn less_equal(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::LessEqual, other)
    }

    /// 1 where both are equal, else 0.
    pub fn equal(self, other: impl Operand<'p>) -> Expr<'p> {
        self.binary(Binary::Equal, other)
    }

    /// `self` to the power of `other`; small constant powers become products.
    pub fn pow(self, other: impl Operand<'p>) -> Expr<'p> {
        let other = other.term(self);
        match other.as_number() {
            Some(0.0) => self.number(1.0),
            Some(0.5) => self.sqrt(),
            Some(1.0) => self,
            Some(2.0) => self * self,
            Some(3.0) => self * self * self,
            Some(-1.0) => 1.0 / self,
            _ => self.binary(Binary::Pow, other),
        }
    }

    /// `yes` where `self` is not 0, else `no`.
    pub fn select(self, yes: impl Operand<'p>, no: impl Operand<'p>) -> Expr<'p> {
        let (yes, no) = (yes.term(self), no.term(self));
        if yes.index == no.index {
            return yes;
        }
        self.arena.push(Instruction::Select(self.index, yes.index, no.index))
    }
}

impl<'p> Neg for Expr<'p> {
    type Output = Expr<'p>;
    fn neg(self) -> Expr<'p> {
        match self.as_number() {
            Some(value) => self.number(-value),
            None => self.unary(Unary::Neg),
        }
    }
}

/// `+ - * /` between terms and numbers, in either order.
macro_rules! forward_operators {
    ($($operator:ident $method:ident),*) => {$(
        impl<'p, R: Operand<'p>> $operator<R> for Expr<'p> {
            type Output = Expr<'p>;
            fn $method(self, other: R) -> Expr<'p> {
                self.binary(Binary::$operator, other)
            }
        }
        impl<'p> $operator<Expr<'p>> for f64 {
            type Output = Expr<'p>;
            fn $method(self, other: Expr<'p>) -> Expr<'p> {
                other.number(self).binary(Binary::$operator, other)
            }
        }
    )*};
}
forward_operators!(Add add, Sub sub, Mul mul, Div div);
